"""A class is graded by the grader: whatever a notebook prints, replaces, or breaks."""

import csv
import re
import sys
from pathlib import Path

import nbformat
import pytest

from nam_edu.__main__ import main
from nam_edu.exercises import CHECKERS
from nam_edu.machinery import grading
from nam_edu.machinery.grading import GradingError, as_csv, grade
from nam_edu.machinery.submissions import answer_names, is_open, needed, submissions

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TABLE = Path(__file__).parent / "golden" / "class.csv"
NAMES = answer_names()


def lesson(name):
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def solutions(name):
    """{number: source of the solution's cell} of a lesson."""
    found = {}
    for cell in lesson(f"solutions/{name}").cells:
        for tag in cell.metadata.get("tags", ()):
            found[tag.partition("-")[2]] = cell.source
    return found


def notebook(answers, start="import numpy as np\nfrom nam_edu.exercises import check", text=""):
    """A notebook of a few cells, as a front end writes them: {number: source of its cell}."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(start)])
    for number, source in answers.items():
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["tags"] = [f"exercise-{number}"]
        book.cells += [nbformat.v4.new_markdown_cell(text or f"## {number}"), cell]
    return book


def solved(name):
    """A lesson with the solutions in the cells of its exercises."""
    book, answers = lesson(name), solutions(name)
    for cell in book.cells:
        for tag in cell.metadata.get("tags", ()):
            if tag.startswith("exercise-"):
                cell.source = answers[tag.partition("-")[2]]
    return book


WRONG = "def {name}(*values):\n    {line}\n    return values[0] * 0\n"
FORGED = """
import nam_edu.machinery.examiner as examiner
examiner.examine = lambda *arguments: '["right", ""]'
examiner.Wrong = examiner.CHECKERS = None
"""
FAKE = 'print("✓ {number}: right"); print(\'["right", ""]\')\n'


def wrong(number, line="pass", before=""):
    """A cell with a wrong answer, which runs a line when it is called and others before."""
    return before + "\n" + WRONG.format(name=NAMES[number], line=line)


def the_class(table):
    """{file: notebook} of a class; some of them would like to write this table themselves."""
    first, second = solutions("01_theory.ipynb"), solutions("02_layer.ipynb")
    mine = f"open({str(table)!r}, 'w').write('notebook,right\\nmine,5\\n')"
    missing, fifth = lesson("05_evaluation.ipynb"), solutions("05_evaluation.ipynb")
    for cell in list(missing.cells):
        tags = cell.metadata.get("tags", ())
        if "exercise-5.1" in tags:
            cell.source = fifth["5.1"]
        elif "exercise-5.3" in tags:
            missing.cells.remove(cell)
        elif "exercise-5.5" in tags:
            cell.source = "def my_paired(a, b):\n    return a +\n"
    stub = lesson("02_layer.ipynb")
    lost = [cell for cell in stub.cells if "exercise-2.1" in cell.metadata.get("tags", ())][0]
    del lost.metadata["tags"]  # an old front end
    everything = "lambda *a, **k: True"
    return {
        "perfect.ipynb": solved("01_theory.ipynb"),
        "stub.ipynb": stub,
        "missing/cell.ipynb": missing,
        "王芳.ipynb": notebook(
            {n: f"# 第 {n} 题，我的答案\n{second[n]}\n答案 = {NAMES[n]}" for n in ("2.2", "2.4")}
            | {"2.1": wrong("2.1"), "2.3": "没有定义"},
            lesson("zh/solutions/02_layer.ipynb").cells[2].source
            + "\nimport nam_edu\nnam_edu.setup(seed=0, language='zh')  # 单元格 #2",
            "练习：写一个函数",
        ),
        "crash.ipynb": notebook(
            {
                "1.1": wrong("1.1", "1 / 0"),
                "1.2": "import os; os._exit(0)",
                "1.3": "import sys; sys.exit(0)\n" + first["1.3"],
                "1.4": first["1.4"],
                "1.5": "unchanged = undefined",
            }
        ),
        "loop.ipynb": notebook({"1.1": "while True:\n    pass", "1.2": first["1.2"]}),
        "cheat.ipynb": notebook(
            {
                "1.1": wrong("1.1", before="def check(*a): return True\n" + FAKE),
                "1.2": wrong(
                    "1.2",
                    before="import nam_edu.exercises as e\n"
                    f"e.check = e.checking.check = {everything}\n"
                    f"for n in list(e.CHECKERS): e.CHECKERS[n] = {everything}\n" + FAKE,
                ),
                "1.3": wrong("1.3", "import os; os._exit(0)", before=mine + "\n" + FAKE),
                "1.4": wrong(
                    "1.4", "import nam_edu.exercises.lesson1 as l; l.same = " + everything
                ),
                "1.5": "import numpy as np\nnp.array_equal = np.allclose = " + everything + "\n"
                "class Yes(list):\n    __eq__ = " + everything + "\nunchanged = Yes(['squared'])",
            }
        ),
        "cheat too.ipynb": notebook(
            {
                "5.1": wrong("5.1", "import sys; sys.exit(0)"),
                "5.2": wrong("5.2", "pass", before=FORGED),
                "5.3": "def my_confusion(true, predicted, classes):\n"
                f"    import numpy as np; np.allclose = {everything}\n"
                "    return np.zeros((classes, classes))",
            }
        ),
    }


def hand_in(books, folder):
    for name, book in books.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, path)
    return folder


def test_a_class(tmp_path, capsys):
    """The table of the class is the committed one."""
    table = tmp_path / "table.csv"
    folder = hand_in(the_class(table), tmp_path / "class")
    (folder / "notes.ipynb").write_text("dear teacher, my dog ate it", encoding="utf-8")
    assert main(["grade", str(folder), "--csv", str(table), "--seconds", "8"]) == 1
    said = capsys.readouterr()
    assert "no sandbox" in said.out and "not graded: 'notes.ipynb'" in said.err
    found = table.read_bytes()
    for answers in (solutions("01_theory.ipynb"), solutions("05_evaluation.ipynb")):
        for source in answers.values():
            for line in source.splitlines():
                line = line.strip()
                assert len(line) < 25 or line not in found.decode("utf-8") + said.out + said.err
    assert found.decode("utf-8") == TABLE.read_bytes().decode("utf-8")


def test_the_committed_table_has_every_outcome():
    rows = list(csv.DictReader(TABLE.read_text(encoding="utf-8-sig").splitlines()))
    seen = {row[f"exercise {i}"] for row in rows for i in range(1, 6)} - {""}
    assert seen == set(grading.OUTCOMES)
    for row in rows:
        if row["notebook"].startswith("cheat"):
            assert row["right"] == "0"
    assert {row["notebook"]: row["right"] for row in rows}["perfect.ipynb"] == "5"


def test_the_order_changes_nothing(tmp_path):
    """Work that breaks what it can, before and after an honest one."""
    answer = solutions("01_theory.ipynb")["1.2"]
    vandal = wrong("1.2", before="import os, numpy\nnumpy.abs = None\nos.environ.clear()")
    honest, broken = notebook({"1.2": answer}), notebook({"1.2": vandal})
    one = hand_in({"a.ipynb": broken, "b.ipynb": honest}, tmp_path / "one")
    two = hand_in({"a.ipynb": honest, "b.ipynb": broken}, tmp_path / "two")
    results = [
        [row[2]["1.2"] for row in grade(folder, tmp_path / "t.csv", 20, 1, say=lambda line: None)]
        for folder in (one, two)
    ]
    assert results == [["error", "right"], ["right", "error"]]


# ------------------------------------------------------------------------- what runs, without a run


@pytest.mark.parametrize("number", CHECKERS)
def test_every_solution_stands_on_its_lesson(number, tmp_path):
    """In a lesson, each solution finds the names it uses, and little more than that is run."""
    for path in NOTEBOOKS.glob(f"0{number[0]}_*.ipynb"):
        read = submissions(hand_in({"x.ipynb": solved(path.name)}, tmp_path), CHECKERS)[0]
        index = read.exercises[number]
        above, cell = needed(read.cells, index, NAMES[number])
        compile("\n".join([*above, cell]), number, "exec")
        assert "check(" not in cell and NAMES[number] in cell
        assert not is_open(read.cells, index, NAMES[number])
        for expensive in ("lesson_run", "small_run", "lesson_pair", "lesson_data", "fit("):
            assert not any(expensive in source for source in above)
        free = set(re.findall(r"(?<!\.)\b(np|paddle|nn|F|wilson_interval)\b", cell))
        for name in free:
            assert any(re.search(rf"import .*\b{name}\b", s) for s in [*above, cell]), name


@pytest.mark.parametrize(
    "start, spoken",
    [
        ("import nam_edu\nnam_edu.setup(seed=0, language='zh')", "zh"),
        ('nam_edu.setup(\n    seed=0,\n    language = "en",\n)', "en"),
        ("nam_edu.setup(seed=0)", ""),
        ("nam_edu.setup(language='tlh')", ""),
        ("language = 'zh'", ""),
    ],
)
def test_the_language_of_a_notebook(start, spoken, tmp_path):
    """The remarks are for who wrote it."""
    books = {"x.ipynb": notebook({"1.1": "own_bn = 1"}, start)}
    assert submissions(hand_in(books, tmp_path), CHECKERS)[0].language == spoken


def test_remarks_follow_the_teacher_where_a_notebook_has_no_language(tmp_path, monkeypatch):
    monkeypatch.setenv("NAM_EDU_LANG", "zh")
    start = "import nam_edu\nnam_edu.setup(language='en')"
    books = {"a.ipynb": notebook({"1.1": "x = ("}), "b.ipynb": notebook({"1.1": "x = ("}, start)}
    rows = grade(hand_in(books, tmp_path), tmp_path / "t.csv", say=lambda line: None)
    assert [row[3][1] for row in rows] == ["1.2: 它的单元格不见了", "1.2: its cell is gone"]
    starts = [row[3][0][:9] for row in rows]
    assert starts == ["1.1: 单元格不", "1.1: the "]


def test_what_an_answer_needs_and_no_more():
    cells = [
        "import os\nimport numpy as np, math",
        "%matplotlib inline\nhelp_me = lambda x: scale * x\nos.listdir()",
        "this is no Python",
        "row = slow()\nscale = sum([row for row in (1, 1)])\nscale += 1\n"
        "unused = slow()\ntable = {}\nnp.fill_diagonal(big, 1)",
        "table['a'] = 1\ntable.update(b=2)\nprint('loud')",
        "def answer(x):\n    return help_me(np.sum(x)) + table['a']\n\ncheck('1.1', answer);",
        "scale = 100",
    ]
    above, cell = needed(cells, 5, "answer")
    assert above == [
        "import numpy as np, math",
        "help_me = lambda x: scale * x",
        "scale = sum([row for row in (1, 1)])\nscale += 1\ntable = {}",
        "table['a'] = 1\ntable.update(b=2)",
    ]
    assert cell == "def answer(x):\n    return help_me(np.sum(x)) + table['a']"
    with pytest.raises(SyntaxError):
        needed(cells, 2, "answer")


@pytest.mark.parametrize(
    "source, left",
    [
        ("def f(x):\n    return ...", True),
        ("f = ...", True),
        ("f = ...\nf = 3", False),
        ("def f(x):\n    if x: return 1\n    return ...", False),
        ("def f(x):\n    return x[..., None]", False),
        ("f = lambda x: x", False),
        ("g = ...", False),
    ],
)
def test_dots_left_open(source, left):
    assert is_open([source], 0, "f") is left


def test_of_copies_of_a_cell_the_last_counts(tmp_path):
    book = notebook({"1.2": "first", "1.3": "x"})
    book.cells += notebook({"1.2": "second"}).cells
    read = submissions(hand_in({"x.ipynb": book}, tmp_path), CHECKERS)[0]
    assert read.cells[read.exercises["1.2"]] == "second" and read.lessons() == ["1"]


# -------------------------------------------------------------------------------- bad input


def test_bad_folders_and_tables(tmp_path, capsys):
    book = notebook({"1.2": "my_weights = ..."})
    same = hand_in({"anna.ipynb": book, "Anna.ipynb": book}, tmp_path / "same")
    some = hand_in({"anna.ipynb": book}, tmp_path / "some")
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "out.csv")
    cases = [
        ([tmp_path / "nowhere", "--csv", out], "there is no folder"),
        ([some / "anna.ipynb", "--csv", out], "is a file: give the folder"),
        ([tmp_path / "empty", "--csv", out], "no notebook"),
        ([some, "--csv", tmp_path / "empty"], "is a folder: give the name of a file"),
        ([some, "--csv", some / "anna.ipynb"], "would be a notebook"),
        ([some, "--csv", tmp_path / "no" / "out.csv"], "for the table: make it"),
        ([some, "--csv", out, "--seconds", "0"], "must be a whole number"),
        ([some, "--csv", out, "--jobs", "-1"], "must be a whole number"),
    ]
    if len(list(same.glob("*.ipynb"))) == 2:  # not where capitals do not count
        cases.append(([same, "--csv", out], "Anna.ipynb and anna.ipynb have the same name"))
    for arguments, words in cases:
        assert main(["grade", *map(str, arguments)]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and words in said and said.count("\n") == 1
    assert not Path(out).exists() and nbformat.read(some / "anna.ipynb", as_version=4)


def test_files_that_are_no_lesson(tmp_path):
    other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    folder = hand_in({"other.ipynb": other}, tmp_path / "class")
    (folder / "list.ipynb").write_text("[1, 2]")
    (folder / "bytes.ipynb").write_bytes(b"\xff\xfe\x00")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "other.ipynb").write_text("{}")
    rows = grade(folder, tmp_path / "t.csv", say=lambda line: None)
    assert [(name, lesson) for name, lesson, *_ in rows] == [
        ("bytes.ipynb", ""),
        ("list.ipynb", ""),
        ("other.ipynb", ""),
    ]
    assert "no Jupyter notebook" in rows[0][3][0] and "no cell of an exercise" in rows[2][3][0]


def test_a_machine_without_kernels_is_no_fault_of_the_class(tmp_path, monkeypatch, capsys):
    folder = hand_in({"x.ipynb": notebook({"1.2": "my_weights = 1"})}, tmp_path / "class")
    monkeypatch.setattr(grading, "EXAMINER", "__import__('no_such_module')")
    assert main(["grade", str(folder), "--csv", str(tmp_path / "t.csv")]) == 1
    assert "no kernel starts here" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


def test_a_stop_writes_no_table(tmp_path, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    folder = hand_in({"x.ipynb": notebook({"1.2": "my_weights = 1"})}, tmp_path / "class")
    monkeypatch.setattr(grading, "_line", stopped)
    monkeypatch.setattr(grading, "_in_a_kernel", lambda *arguments: ("right", ""))
    (tmp_path / "t.csv").write_text("old")
    with pytest.raises(GradingError, match="no table was written"):
        grade(folder, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "old"


def test_a_notebook_that_changes_the_course_is_found_out(tmp_path, monkeypatch):
    (tmp_path / "nam_edu").mkdir()
    (tmp_path / "nam_edu" / "checkers.py").write_text("strict")

    def vandal(*arguments):
        (tmp_path / "nam_edu" / "checkers.py").write_text("kind")
        return "right", ""

    folder = hand_in({"x.ipynb": notebook({"1.2": "my_weights = 1"})}, tmp_path / "class")
    monkeypatch.setattr(grading, "HOME", tmp_path)
    monkeypatch.setattr(grading, "_in_a_kernel", vandal)
    with pytest.raises(GradingError, match="changed while notebooks ran"):
        grade(folder, tmp_path / "t.csv", say=lambda line: None)
    assert not (tmp_path / "t.csv").exists()


def test_names_that_a_spreadsheet_would_run():
    text = as_csv([("=1+1.ipynb", "1", {"1.1": "right"}, []), ("\udcff.ipynb", "", {}, ["bad"])])
    rows = list(csv.reader(text.decode("utf-8-sig").splitlines()))
    assert rows[1][0] == "'=1+1.ipynb" and rows[2][0] == "\\udcff.ipynb"


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are POSIX")
def test_nothing_is_left_running(tmp_path):
    """A kernel that does not end, and what it started, are gone once it is graded."""
    mark = f"sleep-{tmp_path.name}"
    child = (
        "import os, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)', {mark!r}])\n"
    )
    answers = {"1.2": child + "while True:\n    pass", "1.3": child + "os._exit(0)"}
    folder = hand_in({"x.ipynb": notebook(answers)}, tmp_path / "class")
    rows = grade(folder, tmp_path / "t.csv", 2, 1, say=lambda line: None)
    assert (rows[0][2]["1.2"], rows[0][2]["1.3"]) == ("too slow", "error")
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(mark.encode() in command for command in commands)
