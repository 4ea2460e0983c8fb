"""How far work has come: one line that is replaced in place, with a drawing below it in a notebook;
and a stop that a notebook shows as a sentence."""

from __future__ import annotations

import html
import shutil
import sys
import time
import uuid

from .errors import Stopped
from .language import noun, words


def _shell():
    """The IPython that runs this code, or None: a script."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def in_notebook():
    """Whether a front end, such as JupyterLab, shows what this code displays."""
    return getattr(_shell(), "kernel", None) is not None


def duration(seconds):
    """Seconds as a person says them: "8 s", "2 min 5 s", "1 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return words("{seconds} s", seconds=seconds)
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return words("{minutes} min {seconds} s", minutes=minutes, seconds=seconds)
    return words("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)


class Line:
    """A line of text that each `show` replaces: in a notebook with a drawing (SVG) below it, in a
    terminal by itself; where the output is a file it shows nothing."""

    def __init__(self):
        self.notebook = in_notebook()
        self.live = self.notebook or sys.stderr.isatty()
        self.shown_at, self.name = float("-inf"), None

    def due(self):
        """Whether it is worth while to show again: half a second has passed."""
        return self.live and time.perf_counter() - self.shown_at > 0.5

    def show(self, text, drawing=""):
        self.shown_at = time.perf_counter()
        if self.notebook:
            self._display(
                {"text/plain": text, "text/html": f"<div>{html.escape(text)}</div>{drawing}"}
            )
        elif self.live:
            columns = shutil.get_terminal_size().columns - 1
            print("\r" + text[:columns].ljust(columns), end="", file=sys.stderr, flush=True)

    def _display(self, data):
        from IPython.display import display, update_display

        if self.name is None:
            self.name = uuid.uuid4().hex
            display(data, raw=True, display_id=self.name)
        else:
            update_display(data, raw=True, display_id=self.name)

    def clear(self):
        """Make room for other output of a terminal; a notebook keeps the line where it is."""
        if self.live and not self.notebook:
            columns = shutil.get_terminal_size().columns - 1
            print("\r" + " " * columns + "\r", end="", file=sys.stderr, flush=True)


def counted(items, what):
    """Go through `items`, and count along in one line: "3 of 9 networks, about 20 s left".

    what: the plural of what is counted; it is put into the language in use."""
    what = noun(what)
    items, line, started = list(items), Line(), time.perf_counter()
    for n, item in enumerate(items):
        passed = time.perf_counter() - started
        said = words("{n} of {count} {what}", n=n, count=len(items), what=what)
        if n:
            said += words(", about {time} left", time=duration(passed / n * (len(items) - n)))
        line.show(said)
        yield item
    if line.notebook:
        line.show(
            words(
                "{count} {what}, {time}",
                count=len(items),
                what=what,
                time=duration(time.perf_counter() - started),
            )
        )
    line.clear()


def curves(series, right, top, xlabel, ylabel, width=520, height=170):
    """A small drawing (SVG) of {name: (colour, [(x, y), ...])} on axes from 0 to `right`, `top`."""
    left, bottom, wide, high = 44, height - 34, width - 60, height - 58

    def at(x, y):
        return f"{left + wide * x / right:.1f},{bottom - high * min(y / top, 1):.1f}"

    parts, said = [], []
    for n, (name, (colour, points)) in enumerate(series.items()):
        if points:
            path = " ".join(at(x, y) for x, y in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            x, y = at(*points[-1]).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
            ends = f"{points[0][1]:.3g}", f"{points[-1][1]:.3g}"
            said.append(f"{name} {words('from {low} to {high}', low=ends[0], high=ends[1])}")
        place = f'x="{left + wide - 150 * (len(series) - 1 - n)}" y="14" text-anchor="end"'
        parts.append(f'<text {place} fill="{colour}">{html.escape(name)}</text>')
    for x in sorted({0, right}):
        parts.append(f'<text x="{at(x, 0).split(",")[0]}" y="{bottom + 14}" {MIDDLE}>{x:g}</text>')
    for y in (0, top):
        place = f'x="{left - 6}" y="{float(at(0, y).split(",")[1]) + 4:.1f}" text-anchor="end"'
        parts.append(f"<text {place} {GREY}>{y:.3g}</text>")
    parts.append(
        f'<text x="{left + wide / 2}" y="{height - 6}" {MIDDLE}>{html.escape(xlabel)}</text>'
    )
    parts.append(f'<text x="4" y="14" {GREY}>{html.escape(ylabel)}</text>')
    frame = f"M{left},{bottom - high} V{bottom} H{left + wide}"
    parts.append(f'<path d="{frame}" fill="none" stroke="#888888"/>')
    said = "; ".join(said) or words("nothing yet")
    alt = html.escape(words("{what} over {xlabel}: {said}.", what=ylabel, xlabel=xlabel, said=said))
    return (
        f'<svg role="img" aria-label="{alt}" viewBox="0 0 {width} {height}" width="{width}" '
        f'style="max-width: 100%" font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


GREY = 'fill="#777777"'
MIDDLE = f'text-anchor="middle" {GREY}'


def stops_read_well():
    """In IPython: let `Stopped` end a cell with its sentence, not with a traceback. Whoever set a
    handler of their own keeps it."""
    shell = _shell()
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((Stopped,), _say_stopped)


def _say_stopped(shell, kind, stopped, traceback, tb_offset=None):
    go_on = stopped.go_on or words("run this cell again")
    print(words("Stopped and saved ({done}). To go on, {go_on}.", done=stopped.done, go_on=go_on))
