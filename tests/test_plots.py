"""The style of the pictures, and that it stays theirs."""

import base64
import inspect
import io
import re
import struct
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from helpers import Images
from IPython.core.pylabtools import print_figure

from nam_edu import plots
from nam_edu.evaluation import Gate


def draw():
    rng = np.random.default_rng(0)
    figure, (axis,) = plots.panels(1)  # a lesson draws into it by itself
    axis.plot(rng.random((9, 3)), label=["a", "b", "_"])
    axis.set(title="by hand", ylim=(0, None))
    axis.legend()
    return [
        figure,
        plots.lines(
            range(12),
            {"a": rng.random(12), "b": 100 * rng.random(12)},
            "epoch",
            "y",
            "title",
            hlines={"h": 50},
        ),
        plots.heatmap(100 * rng.random((4, 5)), "abcd", "vwxyz", "x", "y", colour_label="c"),
        plots.seeds({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 3.0}}, "y"),
    ]


def shown(figures):
    """As saved, and as a notebook shows them."""
    saved = []
    for figure in figures:
        file = io.BytesIO()
        figure.savefig(file, format="png")
        saved += [file.getvalue(), print_figure(figure, fmt="png")]
    return saved


def test_nothing_is_set_for_others():
    script = (
        "import matplotlib\nbefore = dict(matplotlib.rcParams)\nfrom nam_edu import plots\n"
        "plots.scatter([1, 2], [1, 2], 'x', 'y')\n"
        "before['backend'] = matplotlib.rcParams['backend']\n"
        "assert dict(matplotlib.rcParams) == before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_pictures_are_those_of_a_style_that_is_set_for_all():
    """The right pictures: everything, from the import on, within the style."""
    with plt.rc_context(plots.STYLE):
        right = shown(draw())
    figures = draw()
    with plt.rc_context(
        {"figure.dpi": 50, "grid.color": "red", "font.size": 20, "xtick.color": "red"}
    ):
        with plt.rc_context(matplotlib.rcParamsDefault):
            assert shown(figures) == right


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, f in vars(plots).items()
        if inspect.isfunction(f)
        and f.__module__ == plots.__name__
        and not name.startswith("_")
        and name not in ("styled", "gamma_explorer", "show")
    ],
)
def test_every_public_function_draws_in_style(name):
    assert hasattr(getattr(plots, name), "__wrapped__")


def test_seeds_in_given_axes():
    figure, (left, _) = plots.panels(2)
    assert plots.seeds({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 3.0}}, "y", ax=left) is None
    assert len(left.lines) == 4 and left.get_legend() is None and len(figure.axes) == 2


def test_all_maps_of_a_row_have_one_scale_of_brightness():
    figure = DRAWN["map_rows"]()
    large, small = [a.images[0] for a in figure.axes if a.images][1:]
    assert large.get_clim() == small.get_clim() == (0, 4)


def test_weights_of_a_layer_whose_gammas_are_all_zero():
    figure = plots.gamma_at({"layer": np.zeros((2, 4))}, "layer", 5)
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [1, 1, 1, 1])


# ------------------------------------------------------------------------- alternative texts


@pytest.fixture
def published(monkeypatch):
    """What is shown in a notebook, a list of {mime type: data}."""
    shell = InteractiveShell.instance()
    publisher = CapturingDisplayPublisher(shell=shell)
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher.outputs
    InteractiveShell.clear_instance()


def rows(*shape):
    return np.random.default_rng(0).random(shape)


DRAWN = {
    "lines": lambda: plots.lines([0, 1, 2], {"a": [1, 5, 2], "b": [3, 3, 3]}, "epoch", "loss"),
    "bars": lambda: plots.bars(
        ["x", "y"], {"": [1.5, 2500]}, "images a second", "", horizontal=True
    ),
    "histograms": lambda: plots.histograms({"layer1": {"": np.array([0.25, 0.75])}}, "|γ|"),
    "scatter": lambda: plots.scatter([1, 2], [1, 2.5], "x", "y", diagonal=True),
    "images": lambda: plots.images(rows(2, 4, 5), ["cat", "dog\n→ cow"], columns=2),
    "heatmap": lambda: plots.heatmap([[1, 2], [7, 3]], "ab", "cd", "x", "y"),
    "image_and_maps": lambda: plots.image_and_maps(
        np.zeros((3, 4, 4), "uint8"), np.array([[[-1.0, 2.0]]]), ["same"]
    ),
    "gate_grid": lambda: plots.gate_grid(
        {"C = 2": (np.diag([1.0, 2]), np.diag([1.0, 2]), np.full((2, 2), 0.5), np.eye(2))}
    ),
    "channel_rows": lambda: plots.channel_rows(
        {"gate, right": np.array([[[0.5, 0.5]], [[0.25, 0.75]]])}, ["first", "last"], digits=2
    ),
    "points": lambda: plots.points(
        {"sample": ([4, 16], [0.25, 0.06])},
        "C",
        "|gate − ½|",
        lines_at={"x̂ = 1": ([4, 16], [0.0625, 0.015625])},
        log=True,
    ),
    "block_diagram": lambda: plots.block_diagram({"a block": (STEPS, "x as it is")}),
    "stage_sizes": lambda: plots.stage_sizes({"stem a": [32, 16]}, ["image", "stage 1"]),
    "map_rows": lambda: plots.map_rows(
        {"image": np.zeros((3, 2, 2), "uint8"), "conv1": np.array([[[0.0, 4.0]], [[0.3, 0.5]]])}
    ),
    "spreads": lambda: plots.spreads(
        {"nam": [1.0, 1.25, 2.0], "again": [1, 1, 1]}, "time", band=(0.5, 1.5), band_label="noise"
    ),
    "training_curves": lambda: plots.training_curves(
        [
            dict(epoch=e, evaluated_on="test", top1=10 * e, eval_top1=9 * e)
            | dict(cross_entropy=5 - e, eval_cross_entropy=6 - e)
            for e in (1, 2)
        ]
    ),
    "panels": lambda: by_panels(),
    "superclass_confusion": lambda: plots.superclass_confusion(
        np.array([[3, 1], [0, 4]]), ["fish", "flowers"]
    ),
    "overlays": lambda: plots.overlays(
        np.zeros((1, 3, 4, 4), "uint8"), [[np.eye(2)]], ["NAM"], ["apple"]
    ),
    "seeds": lambda: plots.seeds({"nam": {0: 1.0, 1: 2.0}}, "top-1"),
    "gamma_ranked": lambda: plots.gamma_ranked({"layer1": np.array([0.5, -2.0])}),
    "gamma_heatmap": lambda: plots.gamma_heatmap(np.array([[1, 1], [0.25, 0.5]]), "layer1"),
    "gate_ranges": lambda: plots.gate_ranges(GATES),
    "gamma_at": lambda: plots.gamma_at({"layer1": np.array([[1, 1], [0.25, 0.5]])}, "layer1", 1),
    "intervals": lambda: plots.intervals({"a − b": [0.1, 0.2, 0.3], "c − d": [0, 3]}, 1.0),
    "weights_by_layer": lambda: plots.weights_by_layer(
        {
            "layer1.attention.channel": np.array([[1, 1], [0.25, 0.75]]),
            "layer2": np.array([[1, 1], [0.5, -0.5]]),
        }
    ),
    "gate_channels": lambda: plots.gate_channels(
        np.array([[[[0.5, 0.5]], [[0.25, 0.75]]]]), np.array([0.1, 0.9]), "layer1"
    ),
    "channels_removed": lambda: plots.channels_removed(
        {
            (of, order): {0.1: [1.0, 3.0], 0.5: [sign, 5.0 * sign]}
            for of in ("nam", "bn")
            for order, sign in (("lowest", 1), ("highest", -1))
        }
    ),
    "image_gates": lambda: plots.image_gates(
        np.zeros((2, 3, 4, 4), "uint8"), [np.full((2, 2), 0.5), np.eye(2)], ["cat", "dog"]
    ),
}
STEPS = [
    ("x", (2, 4, 4)),
    ("conv 3×3", (3, 2, 2)),
    ("batch norm", (3, 2, 2)),
    ("attention", (3, 2, 2)),
    ("+", (3, 2, 2)),
    ("relu", (3, 2, 2)),
    ("y", (3, 2, 2)),
]
GATES = {
    "layer1": Gate(0.25, 0.75, 0.5, 0.1, None, None, None),
    "layer2": Gate(0.5, 0.5, 0.5, 0.0, None, None, None),
}
SAID = {
    "lines": "loss over epoch: a from 1 to 2, highest 5; b from 3 to 3.",
    "bars": "Bars, images a second: x 1.5, y 2,500.",
    "histograms": "Histogram of |γ|, layer1: from 0.25 to 0.75, mean 0.5.",
    "scatter": "2 points: x from 1 to 2, y from 1 to 2.5. "
    "The farthest from the line of equal values is 0.5 off it.",
    "images": "2 pictures of 4×5 pixels: cat, dog → cow.",
    "heatmap": "values from 1 to 7, the largest in row b, column c.",
    "image_and_maps": "same from −1 to 2.",
    "gate_grid": "C = 2: x̂ from 0 to 2, gate 0.5, the output from 0 to 1 where the map is from 0 "
    "to 2.",
    "channel_rows": "gate, right, 2 channels of 1×2 pixels: first 0.5, last from 0.25 to 0.75.",
    "points": "sample, 2 points: C from 4 to 16, |gate − ½| from 0.06 to 0.25. "
    "Dashed, x̂ = 1: from 0.0625 at 4 to 0.0156 at 16.",
    "block_diagram": "a block, with the shapes (C, H, W): x (2, 4, 4), conv 3×3 (3, 2, 2), "
    "batch norm, attention, +, relu, y (3, 2, 2). Shortcut to the +: x as it is.",
    "stage_sizes": "with stem a: image 32, stage 1 16.",
    "map_rows": "in each of 1 rows: conv1, up to 4, 50 per cent of its pixels above a tenth.",
    "spreads": "Shaded, noise: from 0.5 to 1.5. Medians, time: nam 1.25, again 1.",
    "training_curves": "training, augmented from 10 to 20; test images from 9 to 18.",
    "panels": "left: loss over epoch: from 1 to 2.",
    "superclass_confusion": "from 75 to 100 per cent of the images are recognised. "
    "The most frequent mistake: 25 per cent of fish are taken for flowers.",
    "overlays": "apple, share of the image above half of the map, per cent: NAM 50.",
    "seeds": "nam: 2 runs from 1 to 2, mean 1.5 (top-1).",
    "gamma_ranked": "layer1 from 2 to 0.5.",
    "gamma_heatmap": "channels of layer1: 1 before training, from 0.25 to 0.5 after epoch 1.",
    "gate_ranges": "The widest of 2 ranges of the gate: layer1, from 0.2500 to 0.7500.",
    "gamma_at": "|γ| of 2 channels from 0.25 to 0.5; weights W times C from 0.667 to 1.33.",
    "intervals": "a − b: mean +0.20, 90 % interval +0.03 to +0.37, inside the band of 1 point. "
    "c − d: mean +1.50, 90 % interval −7.97 to +10.97, not inside the band of 1 point.",
    "weights_by_layer": "most in layer1 with 2 channels: from 0.5 to 1.5. "
    "|γ| over its layer's mean spreads least in layer2 with 2 channels: 1.",
    "gate_channels": "the heaviest, with 90 per cent of the weight, from 0.25 to 0.75, 98 per cent",
    "channels_removed": "by |γ| of NAM: points of top-1 above chance over channels removed in "
    "every block, per cent: smallest first from 2 to 3; largest first from 2 to −3;",
    "image_gates": "the gate of one channel over each: cat 0.5; dog from 0 to 1.",
}


def by_panels():
    figure, (axis,) = plots.panels(1)
    plots.lines([0, 1], {"_": [1, 2]}, "epoch", "loss", "left", ax=axis)
    return figure


@pytest.mark.parametrize("name", DRAWN)
def test_every_picture_says_what_is_seen(name, published):
    figure = DRAWN[name]()
    assert SAID[name] in figure.alt
    figure._ipython_display_()
    (output,) = published
    assert output["data"]["text/plain"] == figure.alt
    (image,) = Images(output["data"]["text/html"]).found
    assert image["alt"] == figure.alt
    png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert png[:4] == b"\x89PNG" and struct.unpack(">I", png[16:20])[0] > 100


def test_no_function_is_left_out():
    drawing = {
        name
        for name, f in vars(plots).items()
        if hasattr(f, "__wrapped__") and inspect.isfunction(f) and not name.startswith("_")
    }
    assert set(DRAWN) == set(SAID) == drawing


def test_a_lesson_says_it_in_its_own_words(published):
    plots.show(by_panels(), 'falls below "1/2" & stays <there>')
    (image,) = Images(published[0]["data"]["text/html"]).found
    assert image["alt"] == 'falls below "1/2" & stays <there>'


# ---------------------------------------------------------------------------- the explorer

HISTORY = {"layer1": np.array([[1.0, 1.0, 1.0], [0.2, 0.5, 0.5]]), "layer2": np.ones((2, 4))}


def test_the_axes_are_those_of_all_epochs():
    before, after = (plots.gamma_at(HISTORY, "layer1", e, np.array([1.0, 0.4])) for e in (0, 1))
    for a, b in zip(before.axes, after.axes):
        assert a.get_xlim() == b.get_xlim() and a.get_ylim() == b.get_ylim()
    assert before.axes[0].get_xlim()[1] >= 1 and before.axes[0].get_ylim()[1] >= 3
    assert after.axes[0].lines[0].get_xdata() == [0.4, 0.4]
    assert "from weight decay alone 0.4" in after.alt


def test_the_explorer_redraws_and_has_a_picture_without_widgets(published, monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    boxes, make = [], ipywidgets.VBox
    monkeypatch.setattr(ipywidgets, "VBox", lambda c: boxes.append(make(c)) or boxes[-1])
    plots.gamma_explorer(HISTORY, np.array([1.0, 0.4]))
    data = published[-1]["data"]
    (fixed,) = Images(data["text/html"]).found
    assert fixed["alt"].startswith("layer2, epoch 1") and "VBox" not in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data
    (layer, play, slider), shown = boxes[0].children[0].children, boxes[0].children[1]
    assert play.max == slider.max == 1 and slider.description == "epoch"
    layer.value, slider.value = "layer1", 0
    (image,) = Images(shown.value).found
    assert image["alt"].startswith("layer1, epoch 0: |γ| of 3 channels 1,")
    png = base64.b64decode(image["src"].split(",")[1])
    shown_width = int(re.search(r"width: (\d+)px", image["style"]).group(1))
    assert struct.unpack(">I", png[16:20])[0] >= 1.9 * shown_width  # sharp
