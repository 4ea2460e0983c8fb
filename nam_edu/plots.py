"""All lessons: their pictures, in one style, with colours that colour-blind readers can tell.

Every function draws one figure, whose axes have units, and returns it; `width` is that of a page. A
notebook shows a figure that is the last value of a cell. The style is that of these figures alone.

Every figure has an alternative text, `figure.alt`, for whoever cannot see it: one or two sentences
that say what is seen, with its numbers. The functions write one of their own; a lesson that has
more to say, or draws by itself, hands figure and text to `show`.
"""

from __future__ import annotations

import base64
import functools
import html
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .machinery.language import words

# Okabe and Ito's colours (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, "#888888")
MARKERS = "osD^vPX*"
PAGE = 7.6  # inches

STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "image.interpolation": "nearest",
    "axes.titlelocation": "left",
    "lines.linewidth": 1.6,
}


def styled(function):
    """The function, drawing in the style of the course; matplotlib's own settings stay as they are
    outside."""

    @functools.wraps(function)
    def in_style(*args, **kwargs):
        with plt.rc_context(STYLE):
            return function(*args, **kwargs)

    return in_style


class StyledFigure(Figure):
    """A figure in the style of the course, also when it is saved or shown later: matplotlib makes
    ticks, and looks up their style, only when it draws."""

    alt = ""  # what is seen, in one or two sentences

    draw = styled(Figure.draw)
    get_tightbbox = styled(Figure.get_tightbbox)  # a notebook shows a figure cut to its contents

    def _ipython_display_(self):
        """In a notebook: as HTML, since JupyterLab gives a plain picture no alternative text."""
        from IPython.display import display

        picture = _img(_png(self, bbox_inches="tight"), self.alt)
        display({"text/html": picture, "text/plain": self.alt or repr(self)}, raw=True)


class StyledAxes(Axes):
    """Its axes: the style holds for what a lesson draws into them by itself, too."""

    plot, set_title, legend = styled(Axes.plot), styled(Axes.set_title), styled(Axes.legend)


def _figure(rows=1, columns=1, height=2.8, width=PAGE, **more):
    """A figure of the course's style that is shown once: where a cell ends with it."""
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        FigureClass=StyledFigure,
        subplot_kw={"axes_class": StyledAxes},
        **more,
    )
    plt.close(figure)
    return figure, axes


def _png(figure, **how):
    file = io.BytesIO()
    figure.savefig(file, format="png", **how)
    return file.getvalue()


def _img(png, alt, width=None):
    """A picture as HTML with its alternative text, never wider than the page."""
    data = base64.b64encode(png).decode()
    style = f"width: {width}px; max-width: 100%" if width else "max-width: 100%"
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" style="{style}">'


def show(figure, alt, **values):
    """Show a figure in a notebook, with this alternative text: what is seen, its numbers computed.

    figure: of this module's functions, or of `panels`. alt: one literal with {names}, which the
    catalogues of messages translate, and the values for them; without values, any text.
    """
    figure.alt = words(alt, **values) if values else alt
    figure._ipython_display_()


def _say(where, sentence):
    """Add a sentence to the alternative text of a figure, or of the figure that has these axes."""
    figure = where.figure if isinstance(where, Axes) else where
    figure.alt = f"{getattr(figure, 'alt', '')} {sentence}".strip()


def _values(values):
    """Numbers as text: "from 0.1 to 0.5", or one of them where all are equal."""
    values = np.asarray(values, float)
    _refuse_nothing(values.ravel(), words("there is nothing to draw"))
    low, high = _number(np.nanmin(values)), _number(np.nanmax(values))
    return low if low == high else words("from {low} to {high}", low=low, high=high)


def _number(value):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value >= 10 else f"{value:.3g}".replace("-", "−")


def _named(label, text):
    return f"{label} {text}" if label and not str(label).startswith("_") else text


def _bare(axis, title=None, size=8.5):
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title is not None:
        axis.set_title(title, fontsize=size, loc="center", pad=3)


def _picture(image):
    """An image as matplotlib wants it: uint8 (3, H, W) -> (H, W, 3)."""
    return np.asarray(image).transpose(1, 2, 0)


# ------------------------------------------------------------------------------------- general


@styled
def lines(
    x,
    curves,
    xlabel,
    ylabel,
    title="",
    *,
    bands=None,
    markers=True,
    hlines=None,
    outside=False,
    ax=None,
    height=2.8,
):
    """Curves {label: values} over x; bands {label: (low, high)} are drawn around them, hlines
    {label: value} as dashed lines; labels that begin with "_" stay out of the legend, which
    stands beside the axes if `outside`. x is one sequence, or {label: sequence}."""
    figure, axis = (None, ax) if ax is not None else _figure(height=height)
    axis = axis if ax is not None else axis[0, 0]
    for i, (label, y) in enumerate(curves.items()):
        at = x[label] if isinstance(x, dict) else x
        axis.plot(
            at,
            y,
            color=COLOURS[i % 8],
            marker=MARKERS[i % 8] if markers else None,
            markersize=4,
            label=label,
        )
        if bands and label in bands:
            axis.fill_between(at, *bands[label], color=COLOURS[i % 8], alpha=0.18, linewidth=0)
    for label, value in (hlines or {}).items():
        axis.axhline(value, color="#666666", linewidth=1, linestyle="--", label=label)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    _say(axis, _course_of(curves, xlabel, ylabel, title, hlines or {}))
    if xlabel == "epoch":
        axis.xaxis.get_major_locator().set_params(integer=True)
    if outside:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    elif len(curves) + len(hlines or {}) > 1:
        axis.legend()
    return figure


def _course_of(curves, xlabel, ylabel, title, hlines):
    """What curves do, as a sentence: where each starts and ends, and how far it goes between."""
    said = []
    for label, y in curves.items():
        y = np.asarray(y, float)
        if y.size == 0:
            continue
        ends = [_number(y[0]), _number(y[-1])]
        text = words("from {low} to {high}", low=ends[0], high=ends[1])
        if _number(y.min()) not in ends:
            text += words(", lowest {value}", value=_number(y.min()))
        if _number(y.max()) not in ends:
            text += words(", highest {value}", value=_number(y.max()))
        said.append(_named(label, text))
    for label, v in hlines.items():
        said.append(_named(label, words("at {value}, dashed", value=_number(v))))
    what = _named(title and title + ":", ylabel)
    return words("{what} over {xlabel}: {said}.", what=what, xlabel=xlabel, said="; ".join(said))


@styled
def bars(names, groups, xlabel, ylabel, title="", *, horizontal=False, labels=None, height=2.6):
    """Bars for {label: values}, one per name and group; `labels` are written at their ends."""
    _refuse_nothing(groups, words("there is nothing to draw"))
    figure, axes = _figure(height=height)
    axis, names = axes[0, 0], [str(n) for n in names]
    for label, values in groups.items():
        bar_ends = ", ".join(f"{name} {_number(v)}" for name, v in zip(names, values))
        what = ", ".join(filter(None, (title, label, xlabel if horizontal else ylabel)))
        _say(figure, words("Bars, {what}: {bar_ends}.", what=what, bar_ends=bar_ends))
    thick, at = 0.8 / len(groups), np.arange(len(names))
    for i, (label, values) in enumerate(groups.items()):
        place = at + (i - (len(groups) - 1) / 2) * thick
        draw = axis.barh if horizontal else axis.bar
        container = draw(place, values, thick * 0.92, color=COLOURS[i % 8], label=label)
        if labels is not None:
            axis.bar_label(
                container, labels if len(groups) == 1 else labels[label], padding=2, fontsize=8
            )
    if horizontal:
        axis.set_yticks(at, names)
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axis.margins(x=0.12)
    else:
        axis.set_xticks(at, names)
        axis.grid(False, axis="x")
        axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axis.margins(y=0.12)
    if len(groups) > 1:
        axis.legend()
    return figure


@styled
def histograms(
    panels,
    xlabel,
    ylabel="share of the values, per unit",
    *,
    bins=60,
    lines_at=(),
    height=2.5,
    limits=None,
):
    """A row of panels {title: {label: values}}, each with the histograms of its values."""
    _refuse_nothing(panels, words("there is nothing to draw"))
    figure, axes = _figure(1, len(panels), height=height)
    for axis, (title, groups) in zip(axes[0], panels.items()):
        both = np.concatenate([np.ravel(v) for v in groups.values()])
        _refuse_nothing(both, words("there is nothing to draw"))
        edges = np.linspace(*(limits or (both.min(), both.max())), bins + 1)
        for i, (label, values) in enumerate(groups.items()):
            axis.hist(
                np.ravel(values),
                edges,
                density=True,
                histtype="stepfilled",
                alpha=0.25,
                color=COLOURS[i % 8],
            )
            axis.hist(
                np.ravel(values),
                edges,
                density=True,
                histtype="step",
                label=label,
                color=COLOURS[i % 8],
                linewidth=1.4,
            )
        said = [
            _named(label, _values(v) + words(", mean {mean}", mean=_number(np.mean(v))))
            for label, v in groups.items()
        ]
        _say(
            figure,
            words(
                "Histogram of {xlabel}, {title}: {said}.",
                xlabel=xlabel,
                title=title,
                said="; ".join(said),
            ),
        )
        for at in lines_at:
            axis.axvline(at, color="#666666", linewidth=1, linestyle="--")
        axis.set(title=title, xlabel=xlabel)
        if len(groups) > 1:
            axis.legend()
    axes[0, 0].set_ylabel(ylabel)
    return figure


@styled
def scatter(x, y, xlabel, ylabel, title="", *, diagonal=False):
    """Points; `diagonal` draws the line on which both are equal."""
    figure, axes = _figure(height=3.0, width=4.6)
    axis = axes[0, 0]
    if diagonal:
        low, high = min(np.min(x), np.min(y)), max(np.max(x), np.max(y))
        axis.plot(
            [low, high], [low, high], color="#888888", linewidth=1, linestyle="--", label="equal"
        )
        axis.legend()
    axis.scatter(x, y, color=BLUE, s=26, zorder=3)
    _say(
        figure,
        words(
            "{count} points: {xlabel} {x}, {ylabel} {y}.",
            count=len(x),
            xlabel=xlabel,
            x=_values(x),
            ylabel=ylabel,
            y=_values(y),
        ),
    )
    if diagonal:
        farthest = _number(np.abs(np.subtract(x, y)).max())
        _say(
            figure,
            words(
                "The farthest from the line of equal values is {farthest} off it.",
                farthest=farthest,
            ),
        )
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


def _refuse_nothing(given, said):
    if not len(given):
        raise ValueError(said)


@styled
def images(pictures, titles=None, columns=10, *, size=None):
    """A grid of images (3, H, W) uint8, or maps (H, W), each with a title."""
    _refuse_nothing(pictures, words("there are no images"))
    titles = list(titles) if titles is not None else []
    if titles and len(titles) < len(pictures):
        raise ValueError(
            words(
                "there are {pictures} pictures, but only {titles} titles",
                pictures=len(pictures),
                titles=len(titles),
            )
        )
    rows = -(-len(pictures) // columns)
    size = size or PAGE / columns
    title_lines = max((str(t).count("\n") + 1 for t in titles), default=0)
    figure, axes = _figure(
        rows, columns, height=rows * (size + 0.16 * title_lines + 0.04), width=columns * size
    )
    named = ": " + ", ".join(str(t).replace("\n", " ") for t in titles) if titles else ""
    _say(
        figure,
        words(
            "{count} pictures of {size} pixels{named}.",
            count=len(pictures),
            size=_size(pictures[0]),
            named=named,
        ),
    )
    for i, axis in enumerate(axes.ravel()):
        if i >= len(pictures):
            axis.axis("off")
            continue
        picture = np.asarray(pictures[i])
        if picture.ndim == 3:
            axis.imshow(_picture(picture))
        else:
            axis.imshow(picture, cmap="viridis")
        _bare(axis, titles[i] if titles else None, 7.5)
    return figure


def _size(picture):
    height, width = np.shape(picture)[-2:]
    return f"{height}×{width}"


@styled
def heatmap(
    values,
    row_names,
    column_names,
    xlabel,
    ylabel,
    title="",
    *,
    colour_label="",
    height=None,
    width=PAGE,
    numbers=True,
    digits=0,
    cmap="viridis",
    limits=None,
):
    """A matrix in colours, with its numbers written in."""
    values = np.asarray(values, float)
    _refuse_nothing(values[~np.isnan(values)], words("there is nothing to draw"))
    height = height or 0.9 + 0.24 * len(values)
    figure, axes = _figure(height=height, width=width)
    axis = axes[0, 0]
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    _say(
        figure,
        words(
            "{ylabel} by {xlabel}, {rows} rows and {columns} columns: values {values}, "
            "the largest in row {row}, column {column}.",
            ylabel=ylabel,
            xlabel=xlabel,
            rows=len(row_names),
            columns=len(column_names),
            values=_values(values),
            row=row_names[row],
            column=column_names[column],
        ),
    )
    drawn = axis.imshow(values, aspect="auto", cmap=cmap, vmin=low, vmax=high)
    axis.set_xticks(
        range(len(column_names)),
        column_names,
        rotation=90 if max(map(len, map(str, column_names))) > 3 else 0,
    )
    axis.set_yticks(range(len(row_names)), row_names)
    axis.tick_params(labelsize=8)
    axis.grid(False)
    if numbers:
        dark = low + 0.55 * (high - low)
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value) and value != 0:
                axis.text(
                    j,
                    i,
                    f"{value:.{digits}f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="black" if value > dark else "white",
                )
    figure.colorbar(drawn, ax=axis, label=colour_label, shrink=0.9, pad=0.01)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure


# -------------------------------------------------------------------------------------- theory


@styled
def image_and_maps(image, maps, titles):
    """An image (3, H, W) and a row of its maps (C, H, W)."""
    figure, axes = _figure(1, 1 + len(maps), height=1.55)
    axes[0, 0].imshow(_picture(image))
    _bare(axes[0, 0], "image\n(3, 32, 32)")
    channels = "; ".join(f"{title} {_values(m)}" for title, m in zip(titles, maps))
    _say(
        figure,
        words(
            "An image and {count} channels of its map, their values: {channels}.",
            count=len(maps),
            channels=channels,
        ),
    )
    for axis, values, title in zip(axes[0, 1:], maps, titles):
        bound = np.abs(values).max() or 1.0
        axis.imshow(values, cmap="PuOr", vmin=-bound, vmax=bound)
        _bare(axis, title)
    return figure


@styled
def gate_grid(columns):
    """A channel from map to output, one column each: {title: (map, x_hat, gate, output)}, all
    (H, W). The gate is drawn from 0 to 1; map and output share a colour scale in each column."""
    rows = ("map x", "x̂", "gate\n0 to 1", "output\ngate · x")
    width = {"width_ratios": [1] * len(columns) + [0.06]}
    figure, axes = _figure(4, len(columns) + 1, height=4.5, gridspec_kw=width)
    for column, (title, channel) in enumerate(columns.items()):
        values, x_hat, gate, output = map(np.asarray, channel)
        _say(
            figure,
            words(
                "{name}: x̂ {x_hat}, gate {gate}, the output {output} where the map is {map}.",
                name=" ".join(title.split()),
                x_hat=_values(x_hat),
                gate=_values(gate),
                output=_values(output),
                map=_values(values),
            ),
        )
        bound = np.abs(values).max() or 1.0
        own, fixed, gates = ("PuOr", -bound, bound), ("PuOr", -4, 4), ("viridis", 0, 1)
        drawn = []
        for axis, picture, (cmap, low, high) in zip(
            axes[:, column], (values, x_hat, gate, output), (own, fixed, gates, own)
        ):
            drawn.append(axis.imshow(picture, cmap=cmap, vmin=low, vmax=high))
            _bare(axis, title if axis is axes[0, column] else None)
    for row, (axis, text) in enumerate(zip(axes[:, 0], rows)):
        axis.set_ylabel(text, rotation=0, ha="right", va="center")
        if row in (1, 2):  # the scales that all columns share
            figure.colorbar(drawn[row], cax=axes[row, -1])
        else:
            axes[row, -1].axis("off")
    return figure


@styled
def channel_rows(rows, names, *, limits=None, digits=None, height=1.25):
    """The channels of small maps as pictures: {title: (C, H, W)}, one row each with one colour
    scale and its bar; `names` stand above the channels. limits {title: (low, high)}; `digits`
    writes the values in."""
    figure, axes = _figure(len(rows), len(names), height=height * len(rows) + 0.2)
    for row, (title, maps) in enumerate(rows.items()):
        maps = np.asarray(maps, float)
        low, high = (limits or {}).get(title, (maps.min(), maps.max()))
        said = ", ".join(f"{name} {_values(m)}" for name, m in zip(names, maps))
        _say(
            figure,
            words(
                "{title}, {count} channels of {size} pixels: {said}.",
                title=title,
                count=len(names),
                size=_size(maps),
                said=said,
            ),
        )
        for axis, name, picture in zip(axes[row], names, maps):
            drawn = axis.imshow(picture, cmap="viridis", vmin=low, vmax=high)
            _bare(axis, name if row == 0 else None)
            for (i, j), value in np.ndenumerate(picture) if digits is not None else ():
                axis.text(
                    j,
                    i,
                    f"{value:.{digits}f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="black" if value > low + 0.6 * (high - low) else "white",
                )
        named = title.replace(", ", ",\n")
        axes[row, 0].set_ylabel(named, rotation=0, ha="right", va="center")
        figure.colorbar(drawn, ax=list(axes[row]), pad=0.01)
    return figure


@styled
def points(groups, xlabel, ylabel, *, lines_at=None, log=False, height=2.9):
    """Points of several groups, {label: (x, y)}; lines_at {label: (x, y)} are dashed, and `log`
    makes both axes logarithmic."""
    figure, axes = _figure(height=height)
    axis = axes[0, 0]
    for i, (label, (x, y)) in enumerate((lines_at or {}).items()):
        style = ("--", ":", "-.")[i % 3]
        axis.plot(x, y, color="#666666", linewidth=1.1, linestyle=style, label=label)
    for i, (label, (x, y)) in enumerate(groups.items()):
        axis.plot(
            x,
            y,
            linestyle="",
            marker=MARKERS[i % 8],
            color=COLOURS[i % 8],
            markerfacecolor=COLOURS[i % 8] if i == 0 else "none",  # shows what lies below it
            markersize=5 + i,
            label=label,
        )
        _say(
            figure,
            words(
                "{label}, {count} points: {xlabel} {x}, {ylabel} {y}.",
                label=label,
                count=len(x),
                xlabel=xlabel,
                x=_values(x),
                ylabel=ylabel,
                y=_values(y),
            ),
        )
    for label, (x, y) in (lines_at or {}).items():
        ends = words(
            "from {first} at {x} to {last} at {x_end}",
            first=_number(y[0]),
            x=_number(x[0]),
            last=_number(y[-1]),
            x_end=_number(x[-1]),
        )
        _say(figure, words("Dashed, {label}: {ends}.", label=label, ends=ends))
    if log:
        axis.set(xscale="log", yscale="log")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# ------------------------------------------------------------------------------------- network


@styled
def block_diagram(blocks):
    """Residual blocks from left to right, below one another: {title: (steps, shortcut)}, with the
    steps and the shortcut of `lessons.block_steps`. The shape (C, H, W) of what comes out stands
    below x, each convolution and y."""
    colours = {"conv": SKY, "batch": YELLOW, "attention": ORANGE, "relu": "#dddddd"}
    figure, axes = _figure(len(blocks), 1, height=1.9 * len(blocks))
    ink = dict(color="#444444", linewidth=1.1)
    arrow = dict(arrowstyle="->", shrinkA=0, shrinkB=0, **ink)
    for axis, (title, (steps, shortcut)) in zip(axes[:, 0], blocks.items()):
        places = np.array([0, *np.linspace(1.35, 9.9, len(steps) - 2), 11])
        axis.annotate("", (places[-1] - 0.15, 0), (places[0] + 0.12, 0), arrowprops=arrow)
        for place, (what, shape) in zip(places, steps):
            kind = what.split()[0]
            box = dict(
                boxstyle="round,pad=0.35",
                linewidth=0 if kind in "xy" else 0.8,
                edgecolor="#444444",
                facecolor=colours.get(kind, "white"),
            )
            text = what.replace("attention", "atten-\ntion").replace(" ", "\n", 1)
            axis.text(place, 0, text, ha="center", va="center", fontsize=8.5, bbox=box)
            if kind in ("x", "y", "conv"):
                axis.text(place, -0.72, f"{shape}", ha="center", va="center", fontsize=8)
        plus = places[[what for what, _ in steps].index("+")]
        axis.plot([0.4, 0.4, plus], [0, 1.15, 1.15], **ink)
        axis.annotate("", (plus, 0.28), (plus, 1.16), arrowprops=arrow)
        axis.text(plus / 2, 1.27, f"shortcut: {shortcut}", ha="center", fontsize=8.5)
        axis.text(plus / 2, 0.6, "residual branch", ha="center", fontsize=8.5)
        along = ", ".join(f"{what} {shape}" if what[0] in "xyc" else what for what, shape in steps)
        _say(
            figure,
            words(
                "{title}, with the shapes (C, H, W): {along}. Shortcut to the +: {shortcut}.",
                title=title,
                along=along,
                shortcut=shortcut,
            ),
        )
        axis.set(xlim=(-0.55, 11.55), ylim=(-0.95, 1.6))
        _bare(axis)
        axis.set_title(title, loc="left", fontsize=9.5)
    return figure


@styled
def stage_sizes(sides, names):
    """The maps of each stage to scale: {what: sides in pixels}, one row each."""
    figure, axes = _figure(len(sides), 1, height=1.75 * len(sides))
    for axis, (what, row) in zip(axes[:, 0], sides.items()):
        stages = ", ".join(f"{name} {side}" for name, side in zip(names, row))
        _say(
            figure,
            words("Side of the map in pixels with {what}: {stages}.", what=what, stages=stages),
        )
        for i, side in enumerate(row):
            axis.add_patch(
                matplotlib.patches.Rectangle(
                    (i * 38 + (32 - side) / 2, (32 - side) / 2),
                    side,
                    side,
                    facecolor=SKY,
                    edgecolor=BLUE,
                    linewidth=1,
                )
            )
            axis.text(
                i * 38 + 16, -3, f"{names[i]}\n{side}×{side}", ha="center", va="top", fontsize=8
            )
        axis.set(xlim=(-2, len(row) * 38 - 4), ylim=(-15, 34), aspect="equal")
        _bare(axis)
        axis.set_title(what, loc="left", fontsize=9.5)
    return figure


@styled
def map_rows(rows):
    """Maps as small pictures: {title: (K, H, W)}, one row of K pictures each, from 0 (dark) to the
    largest value of the row (bright); an image (3, H, W) uint8 is a row of its own."""
    maps = {title: values for title, values in rows.items() if values.dtype != np.uint8}
    count = max(map(len, maps.values()))
    figure, axes = _figure(
        len(rows),
        count + 1,
        height=0.9 * len(rows),
        gridspec_kw={"width_ratios": [1.6] + [1] * count},
    )
    for axis in axes.ravel():
        axis.axis("off")
    for row, (title, values) in zip(axes, rows.items()):
        row[0].text(0, 0.5, title, va="center", fontsize=8.5)
        if title not in maps:
            row[1].imshow(_picture(values))
            continue
        for axis, one in zip(row[1:], values):
            axis.imshow(one, cmap="viridis", vmin=0, vmax=values.max() or 1)
    said = "; ".join(
        words(
            "{title}, up to {highest}, {share:.0f} per cent of its pixels above a tenth",
            title=title,
            highest=_number(values.max()),
            share=100 * np.mean(values > values.max() / 10),
        )
        for title, values in maps.items()
    )
    _say(
        figure,
        words(
            "Up to {count} maps in each of {rows} rows: {said}.",
            count=count,
            rows=len(maps),
            said=said,
        ),
    )
    return figure


@styled
def spreads(groups, xlabel, *, band=None, band_label=""):
    """Repeated measurements {name: values}, a row each: a point at the median, a bar from quartile
    to quartile. band: (low, high), shaded, with its label."""
    figure, axes = _figure(height=0.7 + 0.23 * len(groups))
    axis = axes[0, 0]
    if band is not None:
        axis.axvspan(*band, color="#dddddd", label=band_label, linewidth=0)
        _say(
            figure,
            words("Shaded, {band_label}: {values}.", band_label=band_label, values=_values(band)),
        )
    for i, values in enumerate(groups.values()):
        low, middle, high = np.percentile(values, (25, 50, 75))
        axis.plot([low, high], [i, i], color=SKY, linewidth=5, solid_capstyle="butt")
        axis.plot(middle, i, "o", color=BLUE, markersize=5)
    medians = ", ".join(f"{name} {_number(np.median(v))}" for name, v in groups.items())
    _say(figure, words("Medians, {xlabel}: {medians}.", xlabel=xlabel, medians=medians))
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set(xlabel=xlabel)
    if band is not None:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# ------------------------------------------------------------------------------------ training


@styled
def training_curves(log, title=""):
    """Cross-entropy and top-1 of a run's log, epoch by epoch: training images, and those that it
    was evaluated on."""
    _refuse_nothing(log, words("no epoch is finished yet"))
    epochs, held_out = [row["epoch"] for row in log], log[0]["evaluated_on"]
    figure, axes = _figure(1, 2, height=2.7)
    for axis, what, label in (
        (axes[0, 0], "cross_entropy", "cross-entropy"),
        (axes[0, 1], "top1", "top-1, per cent"),
    ):
        lines(
            epochs,
            {
                "training, augmented": [row[what] for row in log],
                f"{held_out} images": [row[f"eval_{what}"] for row in log],
            },
            "epoch",
            label,
            title,
            ax=axis,
        )
    return figure


@styled
def panels(columns, height=2.7, share_y=False):
    """A row of empty axes, to be filled by `lines(..., ax=...)`: (figure, axes)."""
    figure, axes = _figure(1, columns, height=height, sharey=share_y)
    return figure, list(axes[0])


# ---------------------------------------------------------------------------------- evaluation


@styled
def superclass_confusion(confusion, names):
    """Where the images of each superclass went, in per cent of its images: (20, 20)."""
    share = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    short = [
        name.replace("_", " ")
        .replace("household electrical", "electrical")
        .replace("large omnivores and", "large omniv.,")
        .replace("large ", "l. ")
        .replace("invertebrates", "invertebr.")
        for name in names
    ]
    figure = heatmap(
        np.round(share),
        short,
        short,
        "superclass of the first choice",
        "true superclass",
        colour_label="per cent of the row's images",
        height=5.6,
        limits=(0, 100),
    )
    right, others = np.diag(share), share - np.diag(np.diag(share))
    row, column = np.unravel_index(others.argmax(), share.shape)
    figure.alt = words(
        "Of {count} superclasses {right} per cent of the images are recognised. The most frequent "
        "mistake: {share} per cent of {row} are taken for {column}.",
        count=len(names),
        right=_values(right),
        share=_number(others.max()),
        row=short[row],
        column=short[column],
    )
    return figure


@styled
def overlays(images, maps, titles, names):
    """A row for each image (3, H, W) uint8: the image, named, and beside it the image under each of
    its maps (h, w), from 0 to 1, enlarged to it."""
    _refuse_nothing(images, words("there are no images"))
    figure, axes = _figure(
        len(images),
        1 + len(titles),
        height=1.45 * len(images) + 0.25,
        width=1.45 * (1 + len(titles)),
    )
    for row, image, heats, name in zip(axes, images, maps, names):
        bright = ", ".join(f"{t} {100 * np.mean(m > 0.5):.0f}" for t, m in zip(titles, heats))
        _say(
            figure,
            words(
                "{name}, share of the image above half of the map, per cent: {bright}.",
                name=name,
                bright=bright,
            ),
        )
        height, width = image.shape[1:]
        for axis, heat, title in zip(row, [None, *heats], [name, *titles]):
            axis.imshow(_picture(image), extent=(0, width, height, 0))
            if heat is not None:
                axis.imshow(
                    heat,
                    cmap="inferno",
                    alpha=0.55,
                    vmin=0,
                    vmax=1,
                    interpolation="bilinear",
                    extent=(0, width, height, 0),
                )
            _bare(axis, title if heat is None or row[0] is axes[0, 0] else None)
    return figure


@styled
def seeds(groups, ylabel, title="", *, ax=None):
    """Runs as points, {label: {seed: value}}; runs of one seed are joined by a line. A legend names
    the seeds, unless they are drawn into axes that are given."""
    _refuse_nothing(groups, words("there is nothing to draw"))
    figure, axis = (None, ax) if ax is not None else _figure(height=2.8, width=5.2)
    axis, labels = axis if ax is not None else axis[0, 0], list(groups)
    for i, seed in enumerate(sorted(set.intersection(*(set(g) for g in groups.values())))):
        axis.plot(
            range(len(labels)),
            [groups[label][seed] for label in labels],
            color="#aaaaaa",
            linewidth=0.8,
            marker=MARKERS[i % 8],
            markersize=6,
            markeredgewidth=0,
            markerfacecolor=COLOURS[i % 8],
            label=f"seed {seed}",
        )
    for place, label in enumerate(labels):
        mean = np.mean(list(groups[label].values()))
        axis.plot([place - 0.22, place + 0.22], [mean, mean], color="black", linewidth=2)
        values = list(groups[label].values())
        of = f"{title}, {ylabel}" if title else ylabel
        _say(
            axis,
            words(
                "{label}: {count} runs {values}, mean {mean} ({of}).",
                label=label,
                count=len(values),
                values=_values(values),
                mean=_number(mean),
                of=of,
            ),
        )
    axis.set_xticks(range(len(labels)), labels)
    axis.set(ylabel=ylabel, title=title, xlim=(-0.5, len(labels) - 0.5))
    if ax is None:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# --------------------------------------------------------------------------------------- gamma


@styled
def gamma_ranked(layers, ylabel="|γ|", height=2.8):
    """|gamma| of each layer {name: (C,)}, largest first, over the share of the channels."""
    figure = lines(
        {name: np.linspace(0, 100, len(g)) for name, g in layers.items()},
        {name: np.sort(np.abs(g))[::-1] for name, g in layers.items()},
        "channels, largest first, per cent",
        ylabel,
        markers=False,
        height=height,
    )
    figure.axes[0].set_ylim(bottom=0)
    return figure


@styled
def gamma_heatmap(history, title=""):
    """|gamma| of one layer over the epochs, (epochs + 1, C), channels ordered by the end."""
    history = np.abs(np.asarray(history))
    order = np.argsort(-history[-1], kind="stable")
    figure, axes = _figure(height=2.4)
    axis = axes[0, 0]
    drawn = axis.imshow(
        history[:, order],
        aspect="auto",
        cmap="viridis",
        extent=(0.5, history.shape[1] + 0.5, len(history) - 0.5, -0.5),
    )
    axis.grid(False)
    axis.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(drawn, ax=axis, label="|γ|", pad=0.01)
    _say(
        figure,
        words(
            "|γ| of the {count} channels of {layer}: {before} before training, {after} "
            "after epoch {epoch}.",
            count=history.shape[1],
            layer=title or words("a layer"),
            before=_values(history[0]),
            after=_values(history[-1]),
            epoch=len(history) - 1,
        ),
    )
    axis.set(xlabel="channel, largest |γ| at the end first", ylabel="epoch", title=title)
    return figure


@styled
def gate_ranges(gates, title=""):
    """The smallest, the mean and the largest gate of each layer, {name: evaluation.Gate}."""
    _refuse_nothing(gates, words("the network has no NAM layer"))
    figure, axes = _figure(height=0.7 + 0.24 * len(gates))
    axis = axes[0, 0]
    spans = {name: gate.high - gate.low for name, gate in gates.items()}
    for which, choose in ((words("widest"), max), (words("narrowest"), min)):
        name = choose(spans, key=spans.get)
        _say(
            figure,
            words(
                "The {which} of {count} ranges of the gate: {name}, from {low:.4f} to {high:.4f}.",
                which=which,
                count=len(gates),
                name=name,
                low=gates[name].low,
                high=gates[name].high,
            ),
        )
    for i, gate in enumerate(gates.values()):
        axis.plot(
            [gate.low, gate.high],
            [i, i],
            color=SKY,
            linewidth=5,
            solid_capstyle="butt",
            label="smallest to largest" if i == 0 else None,
        )
        axis.plot(
            [gate.mean - gate.std, gate.mean + gate.std],
            [i, i],
            color=BLUE,
            linewidth=5,
            solid_capstyle="butt",
            label="mean ± standard deviation" if i == 0 else None,
        )
    axis.axvline(0.5, color="black", linewidth=1, linestyle="--", label="½")
    axis.set_yticks(range(len(gates)), list(gates))
    axis.invert_yaxis()
    axis.set(xlabel="gate", title=title)
    axis.grid(False, axis="y")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def gamma_at(history, layer, epoch, expected=None):
    """One layer at one epoch: a histogram of |gamma|, and the weights W * C, ranked. The axes are
    the same for all epochs. expected, (epochs + 1,): a gamma that is drawn in as a dotted line."""
    from .evaluation import weight_shares  # late: it loads Paddle, which most pictures do not need

    rows = np.abs(np.asarray(history[layer]))  # (epochs + 1, C)
    shares = np.array([weight_shares(row) for row in rows]) * rows.shape[1]
    epoch = min(epoch, len(rows) - 1)
    now, share = rows[epoch], shares[epoch]
    edges = np.linspace(
        0, 1.05 * max(rows.max(), 0 if expected is None else np.max(expected), 1e-9), 60
    )
    highest = max(np.histogram(row, edges)[0].max() for row in rows)
    figure, (left, right) = panels(2, height=2.5)
    left.hist(now, edges, color=BLUE)
    said = words(
        "{layer}, epoch {epoch}: |γ| of {count} channels {values}",
        layer=layer,
        epoch=epoch,
        count=len(now),
        values=_values(now),
    )
    if expected is not None:
        label = "weight decay alone"
        left.axvline(expected[epoch], color=BLACK, linewidth=2, linestyle=":", label=label)
        left.legend()
        said += words(", from weight decay alone {value}", value=_number(expected[epoch]))
    left.set(xlabel="|γ|", ylabel="channels", title=f"{layer}, epoch {epoch}")
    left.set(xlim=(0, edges[-1]), ylim=(0, 1.05 * highest))
    right.plot(np.linspace(0, 100, len(share)), np.sort(share)[::-1], color=ORANGE)
    right.axhline(1, color="#666666", linewidth=1, linestyle="--")
    right.set(
        xlabel="channels, largest first, per cent",
        ylabel="weight W times C",
        title="1 = all weigh the same",
        ylim=(0, max(2, shares.max() * 1.05)),
    )
    _say(figure, words("{said}; weights W times C {values}.", said=said, values=_values(share)))
    return figure


def gamma_explorer(history, expected=None):
    """Choose a layer, and play its epochs, where widgets live; elsewhere (AI Studio, a page, no
    ipywidgets) a picture of the last layer at the last epoch. All is reached by the keyboard: tab
    goes from the menu to the buttons and the slider, the arrows move the slider.

    history: {layer: (epochs + 1, C)}. expected: as in `gamma_at`.
    """
    from IPython.display import display

    _refuse_nothing(history, words("the network has no NAM layer"))
    names, epochs = list(history), len(next(iter(history.values()))) - 1

    def picture(layer, epoch):
        figure = gamma_at(history, layer, epoch, expected)
        # Twice as fine as it is shown: sharp on every screen.
        return _img(_png(figure, dpi=220), figure.alt, width=round(110 * PAGE))

    bundle = {"text/plain": gamma_at(history, names[-1], epochs, expected).alt}
    bundle["text/html"] = picture(names[-1], epochs)
    try:
        import ipywidgets
    except ImportError:
        display(bundle, raw=True)
        return
    layer = ipywidgets.Dropdown(options=names, value=names[-1], layout={"width": "auto"})
    play = ipywidgets.Play(min=0, max=epochs, value=epochs, interval=800, show_repeat=False)
    slider = ipywidgets.IntSlider(
        epochs,
        0,
        epochs,
        description="epoch",
        continuous_update=False,
        layout={"flex": "1 1 14em", "min_width": "12em"},
    )
    ipywidgets.jslink((play, "value"), (slider, "value"))
    shown = ipywidgets.HTML(bundle["text/html"])

    def redraw(_):
        shown.value = picture(layer.value, slider.value)

    layer.observe(redraw, "value")
    slider.observe(redraw, "value")
    controls = ipywidgets.Box(  # a narrow page puts them below one another
        [layer, play, slider], layout={"flex_flow": "row wrap", "max_width": "100%"}
    )
    display({**ipywidgets.VBox([controls, shown])._repr_mimebundle_(), **bundle}, raw=True)


# ------------------------------------------------------------- what was found (lessons 5 and 6)


@styled
def intervals(differences, margin, title=""):
    """Differences in pairs {title: values}, in points of top-1: mean, 90 % interval (thick) and
    95 % interval (thin) of each, on a band that reaches from -margin to +margin."""
    from .evaluation import mean_interval  # late: it loads Paddle

    figure, axes = _figure(height=1.25 + 0.32 * len(differences))
    axis = axes[0, 0]
    points = f"{margin:g} point{'' if margin == 1 else 's'}"
    band = f"less than {points} either way"
    axis.axvspan(-margin, margin, color=YELLOW, alpha=0.3, linewidth=0, label=band)
    axis.axvline(0, color="#666666", linewidth=1, linestyle="--")
    for i, (name, values) in enumerate(differences.items()):
        mean = np.mean(values)
        for confidence, width in ((0.95, 1.4), (0.90, 4.5)):
            low, high = mean_interval(values, confidence)
            axis.plot(
                [low, high],
                [i, i],
                color=BLUE,
                linewidth=width,
                solid_capstyle="butt",
                label=None if i else f"{100 * confidence:.0f} % interval",
            )
        axis.plot(mean, i, "o", color="white", markeredgecolor=BLUE, markersize=6)
        # low and high are those of the 90 % interval now
        inside = -margin < low and high < margin
        numbers = (f"{number:+.2f}".replace("-", "−") for number in (mean, low, high))
        mean, low, high = numbers
        _say(
            figure,
            words(
                "{name}: mean {mean}, 90 % interval {low} to {high}, {inside} the band of "
                "{points}.",
                name=name.replace("-", "−"),
                mean=mean,
                low=low,
                high=high,
                inside=words("inside") if inside else words("not inside"),
                points=words("1 point")
                if margin == 1
                else words("{margin:g} points", margin=margin),
            ),
        )
    axis.set_yticks(range(len(differences)), list(differences))
    axis.set(xlabel="points of top-1", title=title, ylim=(len(differences) - 0.4, -0.6))
    axis.grid(False, axis="y")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def weights_by_layer(history, title=""):
    """|gamma| over the mean of its layer at the end of training, {layer: (epochs + 1, C)}: each
    point is a channel, and its weight W times C; 1 is an equal share."""
    from .evaluation import weight_shares  # late: it loads Paddle

    _refuse_nothing(history, words("the network has no NAM layer"))
    figure, axes = _figure(height=2.9)
    axis = axes[0, 0]
    shares = {
        name.removesuffix(".attention.channel"): weight_shares(rows[-1]) * rows.shape[1]
        for name, rows in history.items()
    }
    for i, share in enumerate(shares.values()):
        place = i + np.linspace(-0.32, 0.32, len(share))
        axis.plot(place, share, ".", color=BLUE, markersize=3.5, alpha=0.6)
    axis.axhline(1, color="#666666", linewidth=1, linestyle="--")
    names = [f"{name}\nC = {len(share)}" for name, share in shares.items()]
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set(ylabel="|γ| over the layer's mean", title=title)
    axis.grid(False, axis="x")
    for how, choose in ((words("most"), max), (words("least"), min)):
        name = choose(shares, key=lambda name: shares[name].std())
        _say(
            figure,
            words(
                "|γ| over its layer's mean spreads {how} in {name} with {count} channels: "
                "{values}.",
                how=how,
                name=name,
                count=len(shares[name]),
                values=_values(shares[name]),
            ),
        )
    return figure


@styled
def gate_channels(gates, weights, title=""):
    """The gates of one layer, (N, C, h, w), channel by channel, the heaviest first: from the
    smallest to the largest, and the middle 98 per cent. weights: W, (C,)."""
    channels = np.moveaxis(np.asarray(gates), 1, 0).reshape(len(weights), -1)  # (C, N*h*w)
    order = np.argsort(-np.asarray(weights), kind="stable")
    figure, axes = _figure(height=3.0)
    axis = axes[0, 0]
    for place, i in enumerate(order):
        values = channels[i]
        low, high = np.percentile(values, (1, 99))
        parts = (
            ((values.min(), values.max()), SKY, 4, "smallest to largest"),
            ((low, high), BLUE, 8, "middle 98 per cent"),
        )
        for ends, colour, width, label in parts:
            axis.plot(
                [place, place],
                ends,
                color=colour,
                linewidth=width,
                solid_capstyle="butt",
                label=label if place == 0 else None,
            )
    axis.axhline(0.5, color="black", linewidth=1, linestyle="--", label="½")
    axis.set_xticks(range(len(order)), [f"{100 * weights[i]:.0f} %" for i in order], fontsize=8)
    axis.set(
        xlabel="share W of the channel, heaviest first", ylabel="gate", ylim=(0, 1), title=title
    )
    axis.grid(False, axis="x")
    axis.legend(loc="upper right", ncols=3)
    first = channels[order[0]]
    if len(order) == 1:
        _say(
            figure,
            words(
                "{layer}, the gates of its only channel: from {lowest:.2f} to {highest:.2f}.",
                layer=title or words("a layer").capitalize(),
                lowest=first.min(),
                highest=first.max(),
            ),
        )
        return figure
    second = channels[order[1]]
    _say(
        figure,
        words(
            "{layer}, the gates of {count} channels: the heaviest, with {weight:.0f} per "
            "cent of the weight, from {lowest:.2f} to {highest:.2f}, 98 per cent of them from "
            "{low:.2f} to {high:.2f}; the next from {lowest_2:.2f} to "
            "{highest_2:.2f}.",
            layer=title or words("a layer").capitalize(),
            count=len(weights),
            weight=100 * weights[order[0]],
            lowest=first.min(),
            highest=first.max(),
            low=np.percentile(first, 1),
            high=np.percentile(first, 99),
            lowest_2=second.min(),
            highest_2=second.max(),
        ),
    )
    return figure


@styled
def image_gates(images, gates, titles=None):
    """Images (3, H, W) uint8 in a row, and below each the gate of one channel over it, (h, w), in
    colours from 0 to 1."""
    count = len(images)
    _refuse_nothing(images, words("there are no images"))
    figure, axes = _figure(2, count, height=0.3 + 2 * 0.98 * PAGE / (count + 0.6))
    for column, (image, gate) in enumerate(zip(images, gates)):
        axes[0, column].imshow(_picture(image))
        drawn = axes[1, column].imshow(gate, cmap="viridis", vmin=0, vmax=1)
        _bare(axes[0, column], titles[column] if titles else None, 7.5)
        _bare(axes[1, column])
    figure.colorbar(drawn, ax=axes[1, :], label="gate", pad=0.01, ticks=(0, 0.5, 1))
    ranges = "; ".join(f"{t} {_values(g)}" for t, g in zip(titles or range(count), gates))
    _say(
        figure,
        words(
            "{count} images and the gate of one channel over each: {ranges}.",
            count=count,
            ranges=ranges,
        ),
    )
    return figure


@styled
def channels_removed(differences):
    """Points of top-1 above chance when channels are removed, by the |gamma| of NAM and of the
    batch norm before it, smallest and largest first: {(of, order): {share: values of the
    networks}}. Lines are means, bands reach from the lowest to the highest."""
    figure, axes = panels(2, height=2.8, share_y=True)
    titles = {"nam": "by |γ| of NAM", "bn": "by |γ| of the batch norm before it"}
    for axis, (of, title) in zip(axes, titles.items()):
        curves = {
            label: differences[of, order]
            for label, order in (("smallest first", "lowest"), ("largest first", "highest"))
        }
        lines(
            [100 * share for share in curves["smallest first"]],
            {label: [np.mean(v) for v in by_share.values()] for label, by_share in curves.items()},
            "channels removed in every block, per cent",
            "points of top-1 above chance",
            title,
            ax=axis,
            bands={
                label: ([np.min(v) for v in c.values()], [np.max(v) for v in c.values()])
                for label, c in curves.items()
            },
            hlines={"at random": 0},
        )
    low, high = axes[1].get_ylim()  # of both
    axes[1].set_ylim(low, high + 0.35 * (high - low))  # room for the legend
    axes[1].set_ylabel("")
    return figure
