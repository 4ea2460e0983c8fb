"""Holds `python -m nam_edu grade`: the exercises of a class, checked by the grader itself.

Every exercise runs in a new kernel of its own, in an empty folder, with a time limit. So the result
does not depend on the order, and a crash, an endless loop or a spoilt library costs one exercise.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .checks import whole_number
from .files import file_md5, named, new_file
from .language import language, words_in
from .submissions import HOME, GradingError, answer_names, is_open, needed, submissions

NO_SANDBOX = (
    "This is no sandbox: the code of the notebooks runs with your rights. Grade the work of people "
    "whom you do not know in a container, or as a user who owns nothing."
)
STARTING = 180  # seconds that a kernel may take until it has loaded Paddle
OUTCOMES = ("right", "wrong", "not solved", "missing", "error", "too slow", "tampered")
EXAMINER = "__import__('nam_edu.machinery.examiner', fromlist=['examine'])"


def grade(folder, table, seconds=60, jobs=None, say=print):
    """Grade the notebooks below a folder and write the table, a CSV file, whole or not at all.

    seconds: the limit of one exercise. jobs: how many run at a time; default: one per core, at most
    four. Returns the rows (notebook, lesson, outcomes, remarks), outcomes being {number: one of
    `OUTCOMES`}; a file that is no lesson has none, and a remark. Raises GradingError for a bad
    folder or a table that cannot be written.
    """
    import ipykernel  # noqa: F401, without it no kernel would start

    from ..exercises import CHECKERS

    seconds = whole_number("the seconds", seconds, 1, 3600, GradingError)
    jobs = whole_number("the jobs", jobs or min(4, os.cpu_count() or 1), 1, 64, GradingError)
    table = _writable(table)
    names = answer_names()
    handed_in = submissions(folder, CHECKERS)
    say(NO_SANDBOX)
    package = _package()
    rows, stop = [], threading.Event()
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting = []
        for submission in handed_in:
            for lesson in submission.lessons() or [""]:
                numbers = [n for n in CHECKERS if n.partition(".")[0] == lesson]
                results = {
                    n: pool.submit(_exercise, submission, n, names[n], seconds, stop)
                    for n in numbers
                }
                waiting.append((submission, lesson, results))
        for submission, lesson, results in waiting:
            found = {number: result.result() for number, result in results.items()}
            outcomes = {number: outcome for number, (outcome, _) in found.items()}
            remarks = [f"{n}: {remark}" for n, (_, remark) in found.items() if remark]
            if submission.trouble:
                remarks = [submission.trouble]
            rows.append((submission.name, lesson, outcomes, remarks))
            say(_line(*rows[-1]))
    except KeyboardInterrupt:
        raise GradingError("stopped; no table was written") from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    if _package() != package:
        raise GradingError(
            f"files in {HOME / 'nam_edu'} changed while notebooks ran, so no table was "
            "written: undo it (git checkout nam_edu), and find the notebook that did it"
        )
    with new_file(table) as file:
        file.write(as_csv(rows))
    return rows


def _package():
    """{file of this package: md5}: what every kernel loads, and a notebook could write to."""
    return {path: file_md5(path) for path in sorted((HOME / "nam_edu").rglob("*.py"))}


def _writable(table):
    """The path of the table, which must be writable before an hour of work, not after it."""
    table = named(table)
    if table.is_dir():
        raise GradingError(f"{table} is a folder: give the name of a file, such as {table}.csv")
    if table.exists() and not table.is_file():
        raise GradingError(f"{table} is no ordinary file: give a name that ends in .csv")
    if table.suffix == ".ipynb":
        raise GradingError(f"{table} would be a notebook: give a name that ends in .csv")
    if not table.absolute().parent.is_dir():
        raise GradingError(f"there is no folder {table.absolute().parent} for the table: make it")
    if not os.access(table.absolute().parent, os.W_OK):
        raise GradingError(f"{table.absolute().parent} cannot be written to: choose another place")
    return table


def _line(name, lesson, outcomes, remarks):
    """What is said of a notebook as soon as it is graded."""
    if not lesson:
        return _shown(f"{name}: this file {remarks[0]}", sys.stdout.encoding)
    others = ", ".join(f"{n} {what}" for n, what in outcomes.items() if what != "right")
    line = f"lesson {lesson}: {_right(outcomes)} of {len(outcomes)}  {name}"
    return _shown(f"{line}  ({others})" if others else line, sys.stdout.encoding)


def _right(outcomes):
    return sum(outcome == "right" for outcome in outcomes.values())


def _shown(text, encoding="utf-8"):
    """A text that can be written in this encoding, whatever the name of a file is made of."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def as_csv(rows):
    """The table as bytes, a line for each notebook and lesson: UTF-8 with the mark by which
    spreadsheets know it, and nothing that they would take for a formula."""
    most = max([len(outcomes) for _, _, outcomes, _ in rows] + [5])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    exercises = [f"exercise {i + 1}" for i in range(most)]
    writer.writerow(["notebook", "lesson", "right", "of", *exercises, "remarks"])
    for name, lesson, outcomes, remarks in rows:
        given = list(outcomes.values())
        name = _shown(name)
        name = f"'{name}" if name[:1] in "=+-@\t" else name
        marks = [_right(outcomes), len(given)] if given else ["", ""]
        cells = [name, lesson, *marks, *given, *[""] * (most - len(given))]
        writer.writerow([*cells, _shown("; ".join(remarks))])
    return b"\xef\xbb\xbf" + text.getvalue().encode("utf-8")


# --------------------------------------------------------------------------------- one exercise


def _exercise(submission, number, name, seconds, stop):
    """(outcome, remark) of one exercise, the remark in the language of the notebook."""
    spoken = submission.language or language()
    index = submission.exercises.get(number)
    if index is None:
        return "missing", words_in(spoken, "its cell is gone")
    try:
        if is_open(submission.cells, index, name):
            return "not solved", ""
        above, cell = needed(submission.cells, index, name)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        if line:
            return "error", words_in(spoken, "the cell is not valid Python (line {n})", n=line)
        return "error", words_in(spoken, "the cell is not valid Python")
    outcome, remark = _in_a_kernel([number, name, above, cell], seconds, stop, spoken)
    return outcome, remark if len(remark) <= 300 else f"{remark[:300]} …"


def _in_a_kernel(arguments, seconds, stop, spoken):
    """What `examiner.examine` says of these arguments, in this language, in a kernel that lives as
    long as that."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import KernelManager

    class Kernel(KernelManager):  # this Python, whatever other kernels are installed
        kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            language="python",
        )

    folder = tempfile.mkdtemp(prefix="nam-edu-grade-")
    nowhere = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kernel = Kernel()
    kernel.start_kernel(cwd=folder, env=_environment(folder, spoken), **nowhere)
    client = kernel.client()
    try:
        client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        try:
            _ask(kernel, client, f"{EXAMINER}.__name__", STARTING, stop)
        except (_Died, _Broken, TimeoutError):
            raise GradingError(
                "no kernel starts here that can load nam_edu: python -m nam_edu doctor says why"
            ) from None
        text = ", ".join(map(repr, arguments))
        said = _ask(kernel, client, f"{EXAMINER}.examine({text})", seconds, stop)
        return tuple(json.loads(ast.literal_eval(said)))
    except _Died:
        said = words_in(spoken, "the kernel ended: does the cell, or the answer, end Python?")
        return "error", said
    except _Broken:
        return "tampered", words_in(spoken, "the notebook broke the grader's own code")
    except TimeoutError:
        said = words_in(spoken, "no result after {n} s: is there an endless loop?", n=seconds)
        return "too slow", said
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)  # with all that it started in its group of processes
        shutil.rmtree(folder, ignore_errors=True)


class _Died(Exception):
    """The kernel is gone."""


class _Broken(Exception):
    """The expression raised, which `examine` does not by itself."""


def _environment(folder, spoken):
    """The environment of a kernel: this package, the smallest scale, the language of the notebook,
    and nothing of the teacher's own settings of IPython and runs."""
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": "0",
        "NAM_EDU_PROFILE": "ci",
        "NAM_EDU_LANG": spoken,
        "NAM_EDU_RUNS": str(Path(folder) / "runs"),
        "IPYTHONDIR": str(Path(folder) / "ipython"),
    }


def _ask(kernel, client, expression, seconds, stop):
    """The text of the value of an expression in the kernel, sent in the kernel's reply, not
    in what the notebook prints. Raises TimeoutError, _Died or _Broken."""
    asked = client.execute("", silent=True, user_expressions={"said": expression})
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not stop.is_set():
        with contextlib.suppress(queue.Empty):
            reply = client.get_shell_msg(timeout=min(0.5, max(0.01, ends - time.monotonic())))
            if reply["parent_header"].get("msg_id") == asked:
                said = reply["content"].get("user_expressions", {}).get("said", {})
                if said.get("status") != "ok":
                    raise _Broken
                return said["data"]["text/plain"]
            continue
        if not kernel.is_alive():
            raise _Died
    raise TimeoutError
