"""Run notebooks from top to bottom and keep their outputs: python notebooks/refresh.py [NAME ...].

For maintainers. Each English notebook (all lessons, their solutions and AI Studio's first page, or
those named) runs in a new kernel; its file is replaced only when every cell succeeded. Outputs and
counts are kept; times of execution and states of widgets are not. Its Chinese twin, whose code is
the same, does not run: it gets the outputs, translated (`translation.py`).
"""

import argparse
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import nbformat
import translation
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET = "application/vnd.jupyter.widget-view+json"


def tidy(notebook):
    """Leave out what changes from run to run or lives only with a kernel."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream":
                # A progress bar draws itself over and over; its pieces are not for a page.
                output.text = re.sub(r"[^\n\r]*\r", "", output.text)
                output.text = re.sub(r"(?m)^.*\d+/(\d+|\?) \[.*$", "", output.text)
                if not output.text.strip():
                    continue
                if kept and kept[-1].get("name") == output.name:
                    kept[-1].text += output.text
                    continue
            if "data" in output:
                output.data.pop(WIDGET, None)
            kept.append(output)
        cell.outputs = kept


def slowest(notebook):
    """(seconds, id) of the cell that took the longest; before `tidy`."""

    def moment(cell, what):
        return datetime.fromisoformat(cell.metadata["execution"][what].replace("Z", "+00:00"))

    ran = [
        cell
        for cell in notebook.cells
        if "shell.execute_reply" in cell.metadata.get("execution", {})
    ]
    times = [
        (
            (moment(c, "shell.execute_reply") - moment(c, "iopub.execute_input")).total_seconds(),
            c.id,
        )
        for c in ran
    ]
    return max(times, default=(0.0, "none"))  # a page without code


def refresh(path):
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    seconds, cell = slowest(notebook)
    tidy(notebook)
    translation.write(notebook, path)
    if translation.twin_of(path).is_file():
        translation.outputs([translation.name_of(path)])
    print(
        f"{path.relative_to(HERE)}: {time.perf_counter() - started:.0f} s, {seconds:.0f} of them "
        f"in the cell {cell}; {path.stat().st_size // 1024} KB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="files below notebooks/; default: all")
    names = parser.parse_args().names
    paths = [HERE / name for name in names] or sorted(
        path
        for path in HERE.rglob("*.ipynb")
        if not {".ipynb_checkpoints", "runs", "zh"} & set(path.relative_to(HERE).parts)
    )
    copied = [path.name for path in paths if path.parent.is_relative_to(HERE / "zh")]
    if copied:
        sys.exit(f"zh/{copied[0]} does not run: refresh the English {copied[0]}, whose twin it is")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        sys.exit(f"there is no notebook {missing[0]} below {HERE.name}/")
    for path in paths:
        refresh(path)


if __name__ == "__main__":
    main()
