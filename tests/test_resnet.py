"""Counts, names, shapes and loading of the networks; paddle.vision's own is the oracle."""

import numpy as np
import paddle
import paddle.vision
import pytest

from nam_edu.baselines import ATTENTIONS
from nam_edu.checkpoint import CheckpointError
from nam_edu.resnet import ResNet, resnet, resnet18, resnet50


def test_the_counts_of_the_original_tutorial(capsys):
    network = resnet50()
    summary = paddle.summary(network, (1, 3, 224, 224))
    assert summary["total_params"] == 23_826_468
    trainable = sum(int(np.prod(p.shape)) for p in network.parameters() if not p.stop_gradient)
    everything = sum(int(np.prod(v.shape)) for v in network.state_dict().values())
    assert (trainable, everything) == (23_743_140, 23_826_468)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_names_and_shapes_are_those_of_paddle_vision(depth):
    theirs = getattr(paddle.vision.models, f"resnet{depth}")(num_classes=100).state_dict()
    ours = resnet(depth, attention="none").state_dict()
    assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in theirs.items()}


@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_are_those_of_paddle_vision(depth):
    theirs = getattr(paddle.vision.models, f"resnet{depth}")(num_classes=100)
    ours = resnet(depth, attention="none")
    ours.set_state_dict(theirs.state_dict())
    x = paddle.randn([2, 3, 64, 64])
    for mode in ("eval", "train"):
        getattr(ours, mode)(), getattr(theirs, mode)()
        np.testing.assert_allclose(ours(x).numpy(), theirs(x).numpy(), rtol=1e-3, atol=1e-4)


def test_the_attention_stands_before_the_addition():
    """With a module that gives zero, a block is relu of its shortcut."""

    class Zero(paddle.nn.Layer):
        def forward(self, x):
            return 0 * x

    network = resnet18(attention=lambda channels, size: Zero(), width=8)
    block = network.layer1[0]
    x = paddle.randn([2, 8, 8, 8])
    np.testing.assert_array_equal(block(x).numpy(), paddle.nn.functional.relu(x).numpy())


@pytest.mark.parametrize("attention", list(ATTENTIONS))
@pytest.mark.parametrize("depth", [18, 50])
def test_every_attention_gives_logits_and_gradients(depth, attention):
    network = resnet(depth, num_classes=10, attention=attention, width=4)
    logits = network(paddle.randn([2, 3, 32, 32]))
    assert logits.shape == [2, 10]
    logits.sum().backward()
    for name, parameter in network.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None, name


@pytest.mark.parametrize("image_size", [32, 33, 48, 224])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_map_sizes_that_the_modules_are_built_for_are_those_they_see(stem, image_size):
    if stem == "cifar" and image_size == 224:
        pytest.skip("large maps; the sizes follow the same rule")
    seen = []

    def record(channels, size):
        layer = paddle.nn.Identity()
        layer.register_forward_post_hook(
            lambda _, __, out: seen.append((size, tuple(out.shape[2:]), channels, out.shape[1]))
        )
        return layer

    network = resnet18(attention=record, stem=stem, width=2, image_size=image_size)
    network.eval()
    network(paddle.zeros([1, 3, image_size, image_size]))
    assert len(seen) == 8
    for size, actual, channels, actual_channels in seen:
        assert size == actual and channels == actual_channels


def test_width_classes_grey_images_and_stems():
    network = resnet18(num_classes=7, in_channels=1, width=6, stem="cifar")
    assert network(paddle.zeros([1, 1, 32, 32])).shape == [1, 7]
    assert network.conv1.weight.shape == [6, 1, 3, 3]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attention": "nham"}, "none, half, quarter, nam"),
        ({"stem": "vgg"}, "imagenet, cifar"),
        ({"width": 0}, "width must be a whole number of at least 1"),
        ({"num_classes": 2.5}, "num_classes"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        resnet18(**options)


def test_wrong_depth():
    with pytest.raises(ValueError, match="unknown depth 20: choose one of 18, 34, 50, 101, 152"):
        ResNet(20)


# ------------------------------------------------------------------------- ImageNet weights


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory):
    """A file as paddle.vision's ImageNet weights are: a backbone with 1000 classes."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pdparams"
    paddle.seed(5)
    paddle.save(paddle.vision.models.resnet18().state_dict(), str(path))
    return path


def test_imagenet_weights_from_a_path(imagenet_file, capsys):
    network = resnet18(pretrained=imagenet_file)
    message = capsys.readouterr().out
    for name in (
        "fc.weight",
        "fc.bias",
        "layer1.0.attention.channel.bn.weight",
        "layer4.1.attention.channel.bn._variance",
    ):
        assert name in message
    assert "conv1" not in message
    theirs = paddle.load(str(imagenet_file))
    for name, value in network.state_dict().items():
        if not name.startswith("fc.") and ".attention." not in name:
            np.testing.assert_array_equal(value.numpy(), theirs[name].numpy(), err_msg=name)


def test_imagenet_weights_with_the_small_stem(imagenet_file, capsys):
    network = resnet18(stem="cifar", pretrained=imagenet_file)
    assert "conv1.weight" in capsys.readouterr().out
    assert network.conv1.weight.shape == [64, 3, 3, 3]


def test_imagenet_weights_with_a_thousand_classes_load_whole(imagenet_file, capsys):
    resnet18(1000, "none", pretrained=imagenet_file)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [{"width": 32}, {"in_channels": 1}])
def test_imagenet_weights_that_do_not_fit(imagenet_file, options):
    with pytest.raises(CheckpointError, match="does not fit this network; .* conv1.weight"):
        resnet18(pretrained=imagenet_file, **options)


def test_imagenet_weights_are_downloaded_by_name(imagenet_file, monkeypatch, capsys):
    asked = []

    def fetch(url, md5):
        asked.append((url, md5))
        return str(imagenet_file)

    monkeypatch.setattr("paddle.utils.download.get_weights_path_from_url", fetch)
    resnet18(pretrained=True)
    from paddle.vision.models.resnet import model_urls

    assert asked == [tuple(model_urls["resnet18"])]
