"""The style of the pictures, and that it stays theirs."""

import inspect
import io
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.pylabtools import print_figure

from nam_edu import plots


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
        and name not in ("styled", "gamma_explorer")
    ],
)
def test_every_public_function_draws_in_style(name):
    assert hasattr(getattr(plots, name), "__wrapped__")


def test_seeds_in_given_axes():
    figure, (left, _) = plots.panels(2)
    assert plots.seeds({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 3.0}}, "y", ax=left) is None
    assert len(left.lines) == 4 and left.get_legend() is None and len(figure.axes) == 2


def test_weights_of_a_layer_whose_gammas_are_all_zero():
    figure = plots.gamma_at({"layer": np.zeros((2, 4))}, "layer", 5)
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [1, 1, 1, 1])
