"""The Chinese edition is the English one in Chinese: same cells, code, outputs, formulas, numbers
and links, and no text that is older than what it translates."""

import collections
import copy
import html
import re
import shutil
import subprocess
import unicodedata

import chinese
import nbformat
import pytest
import translation

UNTRANSLATED = []  # lessons and solutions that need no twin yet; each other one must have it
TWINS = [path for path in translation.lessons() if translation.twin_of(path).is_file()]
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_every_lesson_has_a_twin():
    missing = [translation.name_of(p) for p in translation.lessons() if p not in TWINS]
    assert set(missing) <= set(UNTRANSLATED)
    found = translation.HERE.glob("zh/**/[0-9]*.ipynb")
    assert {p for p in found if "checkpoint" not in p.name} == set(map(translation.twin_of, TWINS))


PARTS = {
    "**You will be able to**": "**学完之后，你能够**",
    "**You need**": "**预备知识**",
    "**Time**": "**用时**",
    "**In the package**": "**对应的代码**",
    "**Predict": "**猜一猜",
    "<summary>The answer</summary>": "<summary>答案</summary>",
    "# Exercises": "# 练习",
    "# Summary": "# 小结",
    "*Mend it.*": "*改错。*",
    "*An experiment.*": "*动手实验。*",
}


def columns(line):
    """How wide a line is: what is drawn wide counts twice."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in line)


@pytest.mark.parametrize("path", TWINS, ids=translation.name_of)
class TestTwin:
    def test_nothing_is_lost_stale_or_wrong(self, path):
        twin = translation.read(translation.twin_of(path))
        assert translation.all_problems(translation.read(path), twin) == []

    def test_outputs_have_the_same_numbers(self, path):
        """Told by counting: without the patterns with which the outputs were translated."""

        def numbers(notebook):
            said = [html.unescape(str(cell.get("outputs", ""))) for cell in notebook.cells]
            return [sorted(NUMBER.findall(re.sub(r"base64,[^\"]*", "", text))) for text in said]

        twin = translation.read(translation.twin_of(path))
        assert numbers(twin) == numbers(translation.read(path))

    def test_has_the_shape_of_a_lesson(self, path):
        english, twin = translation.read(path), translation.read(translation.twin_of(path))
        for cell, ours in zip(english.cells, twin.cells):
            for part, chinese_part in PARTS.items():
                assert cell.source.count(part) == ours.source.count(chinese_part), (cell.id, part)
            if ours.cell_type == "code":
                assert max(map(columns, ours.source.split("\n"))) <= 125, ours.source

    def test_words_of_the_glossary_are_used(self, path):
        """A term that the English lesson uses has its Chinese word in the Chinese one."""
        books = translation.read(path), translation.read(translation.twin_of(path))
        texts = ["\n".join(c.source for c in b.cells if c.cell_type == "markdown") for b in books]
        assert chinese.missing_terms(*texts) == []


# ------------------------------------------------------------------------- the guards can fail


def cells(*described):
    """Cells of these (id, source) pairs: text where the id begins with "t", else code."""
    made = []
    for name, source in described:
        new = nbformat.v4.new_markdown_cell if name[0] == "t" else nbformat.v4.new_code_cell
        made.append(new(source, id=name))
    return made


@pytest.fixture
def pair():
    """A small notebook and its twin, in which all is well."""
    english = nbformat.v4.new_notebook(
        cells=cells(
            ("c1", "import nam_edu\nnam_edu.setup(seed=0)"),
            ("t1", "# The gate\n\nWith $x^2$ and `W` it is **½**, see [lesson 2](02_layer.ipynb)."),
            ("c2", 'print("# no comment")    # prints a text\nx = 3'),
            ("t2", "It has 16 layers.\n\n![a page of it](images/page.png)"),
            ("c3", "y = 4"),
        )
    )
    english.cells[2].outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="# no comment\n"),
        nbformat.v4.new_output("stream", name="stdout", text="✗ 1.1: the shift beta is missing\n"),
    ]
    english.cells[4].metadata["tags"] = ["exercise-1.1"]
    twin = translation.make(english, None, {})
    ours = {
        "t1": "# 门控\n\n用 $x^2$ 和 `W` 算出来是 **½**，见[第 2 课](02_layer.ipynb)。",
        "c2": "# 打印一段文字",
        "t2": "它有 16 层。\n\n![它的一页](../images/page.png)",
    }
    theirs = {cell.id: cell for cell in english.cells}
    for cell in twin.cells:
        if cell.id in ours:
            original = theirs[cell.id]
            translation.put(original, cell, translation.hash_of(original), ours[cell.id])
    return english, twin


def test_a_twin_in_which_all_is_well(pair):
    english, twin = pair
    assert translation.all_problems(english, twin) == []
    assert twin.cells[0].source == 'import nam_edu\nnam_edu.setup(seed=0, language="zh")'
    assert twin.cells[2].source == 'print("# no comment")    # 打印一段文字\nx = 3'
    assert twin.cells[2].outputs[1].text == "✗ 1.1: 少了平移 beta\n"
    assert twin.cells[2].outputs[0].text == "# no comment\n"


def change(cell, old, new):
    assert old in cell.source
    cell.source = cell.source.replace(old, new)


# {what is done to (English cells, Chinese cells): (the cell that is named, words of the problem)}
DAMAGE = {
    "a word of the English": (lambda e, z: change(e[1], "it is", "it was"), "t1", "stale"),
    "a comment of the English": (lambda e, z: change(e[2], "a text", "text"), "c2", "stale"),
    "a number of the English": (lambda e, z: change(e[3], "16", "17"), "t2", "stale"),
    "a number of the Chinese": (lambda e, z: change(z[3], "16", "17"), "t2", "'16' is lost"),
    "a fraction": (lambda e, z: change(z[1], "½", "一半"), "t1", "'½' is lost"),
    "a formula": (lambda e, z: change(z[1], "x^2", "x^3"), "t1", "formula '$x^2$' is lost"),
    "inline code": (lambda e, z: change(z[1], "`W`", "`w`"), "t1", "code '`W`' is lost"),
    "a link": (lambda e, z: change(z[1], "02_layer", "03_layer"), "t1", "link"),
    "a picture's place": (lambda e, z: change(z[3], "../", ""), "t2", "link"),
    "a heading": (lambda e, z: change(z[1], "# 门控", "门控"), "t1", "heading"),
    "a byte of the Chinese code": (lambda e, z: change(z[4], "4", "5"), "c3", "code differs"),
    "a byte of the English code": (lambda e, z: change(e[4], "4", "5"), "c3", "code differs"),
    "a printed text": (lambda e, z: change(z[2], "# no", "# No"), "c2", "code differs"),
    "an open bracket": (lambda e, z: change(z[4], "y", "(y"), "c3", "code differs"),
    "no Python": (lambda e, z: change(z[4], "= 4", "=="), "c3", "code differs"),
    "an indent": (lambda e, z: change(z[4], "y", " y"), "c3", "code differs"),
    "a tag": (lambda e, z: z[4].metadata.update(tags=[]), "c3", "metadata"),
    "a cell lost": (lambda e, z: z.pop(3), "t2", "is lost"),
    "a cell too many": (lambda e, z: e.pop(3), "t2", "no cell of the English"),
    "the order": (lambda e, z: z.insert(0, z.pop(3)), "cells", "another order"),
    "an output": (lambda e, z: z[2].outputs.pop(), "c2", "other outputs"),
    "a word of an output": (
        lambda e, z: z[2].outputs[0].update(text="# No comment\n"),
        "c2",
        "other outputs",
    ),
    "no translation": (lambda e, z: z[3].metadata.update(translates=""), "t2", "not translated"),
    "punctuation": (lambda e, z: change(z[3], "。", "."), "t2", "full-width"),
    "a word that the glossary rules out": (
        lambda e, z: change(z[1], "算出来", "由闸门"),
        "t1",
        "the glossary has 门控, not 闸门",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(pair, damage):
    english, twin = copy.deepcopy(pair)
    do, cell, problem = DAMAGE[damage]
    do(english.cells, twin.cells)
    found = translation.all_problems(english, twin)
    assert {name for name, _ in found} == {cell}
    assert any(problem in said for _, said in found), found


def test_a_printed_message_with_numbers_of_numpy():
    """Their points, "[2. 1. 0.]", do not end a sentence; other points do."""
    said = (
        "✗ 1.2: the weights are right, but look at gamma after the call: (2, -1, 1, 0) has become "
    )
    assert translation.line_in_chinese(said + "[2. 1. 0.]").endswith("变成了 [2. 1. 0.]")
    assert "变成了" not in translation.line_in_chinese(said + "small. See lesson 1")


def test_the_linter_of_chinese_text():
    fine = "批归一化有 2 个数：γ 和 β。设 `x = 1`，则 $W$ 为 ½（见第 2 课）。\n\n- “**门控**”"
    assert chinese.complaints(fine) == []
    for bad, advice in {
        "共16层": "AutoCorrect",
        "一个数,另一个数": "full-width",
        "权重是½。": "a space",
        "缩放γ": "a space",
        "用`x`算": "a space",
        "一层（见下） 。": "no space beside",
        "第一行\n第二行": "in one line",
        "前面**“门控”**后面": "stars",
        "您好": "write 你",
        "(见下)": "brackets",
        '"门控"': "“ ”",
        "闸门": "glossary",
    }.items():
        assert any(advice in said for said in chinese.complaints(bad)), bad
    assert "weight decay is 权重衰减 in the glossary" in chinese.missing_terms(
        "weight decay", "衰减"
    )
    assert chinese.missing_terms("batch norm", "批归一化") == []  # a batch norm is no batch


def test_the_glossary_has_one_row_for_a_term():
    terms = collections.Counter(t for english, _, _, _ in chinese.glossary() for t in english)
    assert len(terms) > 80 and [t for t, n in terms.items() if n > 1] == []
    for _, ours, never, _ in chinese.glossary():
        assert ours and not any(
            n in w for _, right, _, _ in chinese.glossary() for w in right for n in never
        )


# ------------------------------------------------------------------------------- the commands


@pytest.fixture
def place(tmp_path, monkeypatch, pair):
    """A folder notebooks/ with the small notebook, committed to git where there is git."""
    monkeypatch.setattr(translation, "HERE", tmp_path)
    translation.write(pair[0], tmp_path / "01_a.ipynb")
    if shutil.which("git"):
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", "a lesson")
    return tmp_path


def git(folder, *arguments):
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_from_new_to_status(place, capsys):
    assert not translation.main(["new"])
    assert "3 cells are left" in capsys.readouterr().out
    assert translation.main(["status"])
    assert capsys.readouterr().out.count("is not translated") == 3
    assert not translation.main(["export", "01_a"])
    text = capsys.readouterr().out
    for english, ours in (("1](", "1]("), ("01_a · t1", "01_a · t1")):
        text = text.replace(english, ours)
    answers = iter(
        [
            "# 门控\n\n用 $x^2$ 和 `W` 算出来是 **½**，见[第 2 课](02_layer.ipynb)。\n",
            "# 打印一段文字\n",
            "它有 16 层。\n\n![它的一页](../images/page.png)\n",
        ]
    )
    text = re.sub(f"{translation.CHINESE}\n", lambda m: m[0] + next(answers), text)
    (place / "texts.md").write_text(text, encoding="utf-8")
    assert not translation.main(["import", str(place / "texts.md")])
    assert "3 texts put in, 0 cells are left" in capsys.readouterr().out
    assert not translation.main(["status"]) and "no problems" in capsys.readouterr().out
    # As it was before: `new` keeps all, and `export` prints what is there.
    twin = (place / "zh" / "01_a.ipynb").read_bytes()
    assert not translation.main(["new", "01_a"])
    assert (place / "zh" / "01_a.ipynb").read_bytes() == twin
    capsys.readouterr()
    translation.main(["export", "01_a"])
    assert "它有 16 层。" in capsys.readouterr().out


def test_a_change_of_the_english_is_shown_and_read_again(place, pair, capsys):
    english, twin = pair
    translation.write(twin, place / "zh" / "01_a.ipynb")
    change(english.cells[3], "has 16", "has just 16")
    translation.write(english, place / "01_a.ipynb")
    assert translation.main(["status"])
    said = capsys.readouterr().out
    assert "1 problems" in said and "t2: is stale" in said
    if shutil.which("git"):
        assert "-It has 16 layers." in said and "+It has just 16 layers." in said
    translation.main(["export", "01_a", "--stale"])
    assert "t1" not in capsys.readouterr().out
    assert translation.main(["read", "01_a", "all"]) == 2  # there is no "all"
    assert translation.main(["read", "01_a", "c3"]) == 2
    assert "nothing is translated in c3" in capsys.readouterr().err
    assert not translation.main(["read", "zh/01_a.ipynb", "t2"])
    assert not translation.main(["status"])


def test_code_that_changed_is_taken_over_and_comments_stay(place, pair, capsys):
    english, twin = pair
    translation.write(twin, place / "zh" / "01_a.ipynb")
    change(english.cells[2], "x = 3", "x = 5")
    english.cells.insert(4, *cells(("c4", "z = 6  # six")))
    translation.write(english, place / "01_a.ipynb")
    translation.main(["new"])
    new = translation.read(place / "zh" / "01_a.ipynb").cells
    assert new[2].source == 'print("# no comment")    # 打印一段文字\nx = 5'
    assert [cell.id for cell in new] == ["c1", "t1", "c2", "t2", "c4", "c3"]
    found = translation.all_problems(english, translation.read(place / "zh" / "01_a.ipynb"))
    assert found == [("c4", "is not translated")]


@pytest.mark.parametrize(
    "text, said",
    [
        ("no header", "there is no line such as"),
        ("=== 02_b · t1 · markdown · 0123456789ab ===\n中文", "there is no notebook 02_b"),
        ("=== 01_a · t9 · markdown · 0123456789ab ===\n中文", "has no cell t9"),
    ],
)
def test_a_file_that_cannot_be_imported(place, text, said, capsys):
    translation.main(["new"])
    before = (place / "zh" / "01_a.ipynb").read_bytes()
    (place / "texts.md").write_text(text, encoding="utf-8")
    assert translation.main(["import", str(place / "texts.md")]) == 2
    assert said in capsys.readouterr().err
    assert (place / "zh" / "01_a.ipynb").read_bytes() == before


def test_comments_that_do_not_fit_are_not_taken(place, capsys):
    translation.main(["new"])
    text = "=== 01_a · c2 · code · 0123456789ab ===\n# 一\n# 二"
    (place / "texts.md").write_text(text, encoding="utf-8")
    assert translation.main(["import", str(place / "texts.md")]) == 1
    assert "NOT taken: 1 comments are wanted" in capsys.readouterr().out
