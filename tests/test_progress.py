"""How far work has come, in a notebook, a terminal and a file; and a stop in a notebook."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from nam_edu.machinery import progress

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "seconds, said",
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (4200, "1 h 10 min")],
)
def test_durations(seconds, said):
    assert progress.duration(seconds) == said


def test_a_file_gets_nothing(capsys):
    assert list(progress.counted("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_what_is_counted_is_said_in_chinese(capsys, monkeypatch):
    monkeypatch.setenv("NAM_EDU_LANG", "zh")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.counted("ab", "networks")) == ["a", "b"]
    assert list(progress.counted("a", "{letters}")) == ["a"]
    err = capsys.readouterr().err
    assert "0 / 2 个网络" in err and "0 / 1 {letters}" in err


def test_a_terminal_gets_one_line_that_is_wiped_out(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    assert list(progress.counted("ab", "letters")) == ["a", "b"]
    out, err = capsys.readouterr()
    assert out == "" and "\n" not in err and err.startswith("\r0 of 2 letters ")
    assert "1 of 2 letters, about 0 s left" in err
    assert err.endswith("\r" + " " * 39 + "\r")


def test_a_notebook_gets_one_output_that_is_replaced(monkeypatch):
    import IPython.display

    shown = {}

    def display(data, raw, display_id):
        shown.setdefault(display_id, []).append(data)

    monkeypatch.setattr(progress, "_shell", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython.display, "update_display", display)
    list(progress.counted([1, 2, 3], "networks <&>"))
    ((_, versions),) = shown.items()
    assert [data["text/plain"].split(",")[0] for data in versions] == [
        "0 of 3 networks <&>",
        "1 of 3 networks <&>",
        "2 of 3 networks <&>",
        "3 networks <&>",
    ]
    assert "&lt;&amp;&gt;" in versions[0]["text/html"]


def test_the_drawing_has_its_points_where_they_belong():
    points = [(0.0, 4.0), (1.0, 2.0), (4.0, 1.0)]
    drawing = progress.curves(
        {"training": ("#0072B2", points), "validation": ("#C06000", [])},
        4,
        4.0,
        "epoch",
        "cross-entropy",
    )
    svg = ET.fromstring(drawing)
    assert svg.get("aria-label") == "cross-entropy over epoch: training from 4 to 1."
    (line,) = svg.findall("polyline")
    (x0, y0), (x1, y1), (x4, y4) = (map(float, p.split(",")) for p in line.get("points").split())
    assert (x1 - x0) * 4 == pytest.approx(x4 - x0, abs=0.5)  # to scale
    assert (y1 - y0) * 3 == pytest.approx((y4 - y0) * 2, abs=0.5) and y4 > y0  # y points down
    assert [t.text for t in svg.findall("text")][:2] == ["training", "validation"]


TRAIN = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
import nam_edu
nam_edu.setup(seed=0, data="given")
import paddle
from nam_edu.lessons import small_run
from nam_edu.training import fit, recipe

class Interrupt(paddle.callbacks.Callback):
    at = 6

    def on_train_batch_end(self, step, logs=None):
        Interrupt.at -= 1
        if Interrupt.at == 0:
            signal.raise_signal(signal.SIGINT)
"""
CELL = """
wanted = recipe("ci", train_images=512, validation=128)
run = fit(wanted, out="run", resume=True, callbacks=[Interrupt()])
print(len(run.log), "epochs")
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """Runs cells in one new kernel: cell -> (its outputs, the error of its reply)."""
    notebook = nbformat.v4.new_notebook()
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebooks"))}}
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources=folder)

    def run(source):
        cell = nbformat.v4.new_code_cell(source)
        notebook.cells.append(cell)
        try:
            client.execute_cell(cell, len(notebook.cells) - 1)
        except CellExecutionError as error:
            return cell.outputs, error.ename
        return cell.outputs, None

    with client.setup_kernel():
        assert run(TRAIN)[1] is None
        yield run


def said(outputs):
    return "".join(output.get("text", "") for output in outputs)


def test_an_interrupt_reads_well_and_the_same_cell_goes_on(kernel):
    outputs, error = kernel(CELL)
    assert error == "Stopped"  # the cells after it do not run
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}  # no error
    assert "stderr" not in {output.get("name") for output in outputs}
    assert said(outputs).count("\n") == 1 and "epochs" not in said(outputs)
    assert said(outputs).startswith("Stopped and saved (step 3 of 4 of epoch 2)")
    assert said(outputs).endswith("run this cell again.\n")

    outputs, error = kernel(CELL)
    assert error is None
    assert said(outputs).endswith("2 epochs\n")
    (shown,) = [output for output in outputs if output.output_type == "display_data"]
    assert shown.data["text/plain"].startswith("epoch 2 of 2: loss ")
    assert "<svg" in shown.data["text/html"]
    assert "stderr" not in {output.get("name") for output in outputs}


def test_a_cell_without_resume_says_what_to_add(kernel):
    outputs, error = kernel(
        "Interrupt.at = 1\n" + CELL.replace('out="run", resume=True', 'out="other"')
    )
    assert error == "Stopped" and "run this cell again with resume=True.\n" in said(outputs)


def test_other_errors_are_shown_as_ever(kernel):
    outputs, error = kernel("1 / 0")
    assert error == "ZeroDivisionError" and outputs[0].output_type == "error"
