"""Weights on disk: round trips, the tutorial's names, and a clear word on what does not fit."""

import io
import os
import pickle
import zipfile

import numpy as np
import paddle
import pytest

from nam_edu import checkpoint
from nam_edu.checkpoint import (
    CheckpointError,
    load_weights,
    read_arrays,
    save_weights,
    write_arrays,
)
from nam_edu.resnet import resnet18


def small(**options):
    return resnet18(width=4, **options)


def values(network):
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def assert_equal(network, expected):
    for name, value in values(network).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("suffix", [".npz", ".pdparams"])
def test_round_trip(tmp_path, suffix):
    paddle.seed(1)
    first, second = small(), small()
    path = tmp_path / f"weights{suffix}"
    meta = {"recipe": "mine"} if suffix == ".npz" else {}
    save_weights(first, path, meta)
    assert load_weights(second, path) == meta
    assert_equal(second, values(first))
    assert os.listdir(tmp_path) == [path.name]


def test_paddle_reads_our_pdparams_and_we_read_paddles(tmp_path):
    network = small()
    save_weights(network, tmp_path / "ours.pdparams")
    loaded = paddle.load(str(tmp_path / "ours.pdparams"))
    for name, value in values(network).items():
        np.testing.assert_array_equal(loaded[name].numpy(), value)
    paddle.Model(network).save(str(tmp_path / "theirs"))
    other = small()
    load_weights(other, tmp_path / "theirs.pdparams")
    assert_equal(other, values(network))


def test_a_checkpoint_of_the_original_tutorial(tmp_path):
    """Its attention is `nam.Channel_Att.bn2` in every block."""
    network = small()
    expected = values(network)
    theirs = {
        name.replace(".attention.channel.bn.", ".nam.Channel_Att.bn2."): paddle.to_tensor(v)
        for name, v in expected.items()
    }
    assert "layer1.0.nam.Channel_Att.bn2.weight" in theirs
    paddle.save(theirs, str(tmp_path / "299.pdparams"))
    other = small()
    load_weights(other, tmp_path / "299.pdparams")
    assert_equal(other, expected)


def test_half_precision_arrays_become_what_the_network_has(tmp_path):
    network = small()
    halves = {name: value.astype("float16") for name, value in values(network).items()}
    write_arrays(tmp_path / "half.npz", halves, {})
    other = small()
    load_weights(other, tmp_path / "half.npz")
    assert other.fc.weight.dtype == paddle.float32
    np.testing.assert_array_equal(
        other.fc.weight.numpy(), network.fc.weight.numpy().astype("float16").astype("float32")
    )


def test_another_architecture_is_named_and_nothing_is_loaded(tmp_path):
    save_weights(small(attention="se"), tmp_path / "se.npz")
    network = small()
    before = values(network)
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, tmp_path / "se.npz")
    message = str(caught.value)
    assert "not in the file: layer1.0.attention.channel.bn.weight" in message
    assert "not in the network: layer1.0.attention." in message
    assert_equal(network, before)

    save_weights(small(num_classes=7), tmp_path / "seven.npz")
    with pytest.raises(CheckpointError, match=r"fc.weight \[32, 7\] for \[32, 100\], fc.bias"):
        load_weights(network, tmp_path / "seven.npz")


def test_files_that_are_damaged_or_no_weights(tmp_path):
    network = small()
    save_weights(network, tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    middle = len(good) // 2
    for name, blob in (
        ("cut.npz", good[:middle]),
        ("empty.npz", b""),
        ("text.npz", b"hello"),
        ("flipped.npz", good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]),
        ("text.pdparams", b"hello"),
        ("empty.pdparams", b""),
        ("list.pdparams", pickle.dumps([1, 2])),
        ("numbers.pdparams", pickle.dumps({"fc.weight": 3})),
    ):
        (tmp_path / name).write_bytes(blob)
        with pytest.raises(CheckpointError, match=name):
            load_weights(network, tmp_path / name)
    with pytest.raises(CheckpointError, match="there is no weights file"):
        load_weights(network, tmp_path / "nowhere.npz")
    with pytest.raises(CheckpointError, match="saved as"):
        save_weights(network, tmp_path / "weights.txt")


class Attack:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_weights_that_would_run_code(tmp_path):
    ran = tmp_path / "it ran"
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"fc.weight": Attack(ran)}))
    with pytest.raises(CheckpointError, match="mkdir"):
        load_weights(small(), tmp_path / "a.pdparams")
    np.savez(tmp_path / "a.npz", x=np.array([Attack(ran)], object))
    with pytest.raises(CheckpointError, match="Python objects"):
        load_weights(small(), tmp_path / "a.npz")
    assert not ran.exists()


def test_an_array_that_claims_more_than_it_has(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(16))
    with pytest.raises(CheckpointError, match="does not fit its 16 bytes"):
        read_arrays(tmp_path / "a.npz")


def test_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_UNPACKED", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1 << 20))
    with pytest.raises(CheckpointError, match="unpacks to more than 1 MiB"):
        read_arrays(tmp_path / "a.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.npz"
    write_arrays(path, {"x": np.arange(3)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_arrays(path, {"x": np.arange(4)}, {"not JSON": object()})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w.npz"]
