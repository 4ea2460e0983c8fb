"""The texts of both editions: a Chinese twin is taken where there is one."""

import json
import shutil

import nbformat
import pytest
import sources
from conftest import ROOT

NOTE = "这一页还没有中文"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the texts of the repository, without any Chinese notebook."""
    left_out = shutil.ignore_patterns(".*", "zh", "build", "runs", "data", "*.npz", "__pycache__")
    tmp_path = tmp_path / "repository"
    shutil.copytree(ROOT, tmp_path, ignore=left_out)
    (tmp_path / "notebooks" / "zh").mkdir()
    drawings = tmp_path.parent / "drawings"
    drawings.mkdir()
    for name in ("gate", "decay", "constant"):
        for language in sources.LANGUAGES:
            (drawings / f"{name}.{language}.svg").write_text("<svg></svg>")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return tmp_path


def translated(copy, name):
    """A twin by hand: titles and text in Chinese, cells as they are."""
    notebook = nbformat.read(copy / "notebooks" / f"{name}.ipynb", as_version=4)
    first = notebook.cells[0]
    first.source = "# 1 · 理论\n\n[第 2 课](02_layer.ipynb)，[题解](solutions/01_theory.ipynb)"
    for cell in notebook.cells[1:]:
        if cell.cell_type == "markdown":
            cell.source = (
                "![看见](../images/lesson-1.png) 中文。\n\n# 小结"
                if "Summary" in cell.source
                else "中文。"
            )
    path = copy / "notebooks" / "zh" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def written(copy, language):
    edition = sources.Edition(language, copy.parent / language, copy.parent / "drawings")
    edition.write()
    return edition


def first_cell(folder, name):
    notebook = json.loads((folder / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return "".join(notebook["cells"][0]["source"])


def test_without_twins_the_english_text_stands_there_and_says_so(copy):
    edition = written(copy, "zh")
    assert NOTE in first_cell(edition.folder, "01_theory")
    assert set(edition.documents) - set(edition.english) == {"TEACHING", "QUESTIONS"}
    assert NOTE not in (edition.folder / "index.md").read_text(encoding="utf-8")


def test_a_twin_is_taken(copy):
    translated(copy, "01_theory")
    edition = written(copy, "zh")
    text = first_cell(edition.folder, "01_theory")
    assert text.startswith("# 1 · 理论") and NOTE not in text
    # Links lead to pages of this edition, whether they have been translated or not.
    assert "(/notebooks/02_layer.ipynb)" in text
    assert "(/notebooks/solutions/01_theory.ipynb)" in text
    whole = (edition.folder / "notebooks" / "01_theory.ipynb").read_text(encoding="utf-8")
    assert "(/notebooks/images/lesson-1.png)" in whole and '"## 小结' in whole
    assert NOTE in first_cell(edition.folder, "02_layer")
    assert "notebooks/01_theory" not in edition.english
    assert NOTE not in first_cell(written(copy, "en").folder, "01_theory")


def test_a_heading_that_is_gone_is_named(copy):
    readme = copy / "README.md"
    readme.write_text(readme.read_text("utf-8").replace("## What we found", "## Found"), "utf-8")
    with pytest.raises(sources.SourceError, match='README.md: .*"## What we found"'):
        written(copy, "en")


def test_a_link_to_nothing_is_named(copy):
    (copy / "results" / "speed.md").write_text("# Speed\n\n[there](nowhere.md)\n", "utf-8")
    with pytest.raises(sources.SourceError, match="speed.md: links to nowhere.md"):
        written(copy, "en")


def test_headings_of_one_page_have_one_title():
    text = "# A\n## B\n```\n# no heading\n```\n# C\n## D"
    assert sources.one_title(text) == "# A\n## B\n```\n# no heading\n```\n## C\n### D"


@pytest.mark.parametrize("name", sources.lessons())
def test_every_lesson_has_a_sheet_in_both_languages(name):
    content = sources.sheet(name)
    assert content, f"write site/sheets/{name}.toml"
    for language in sources.LANGUAGES:
        assert len(content[language]["questions"]) == 3
    assert sources.picture_of(name, content["picture"], "en")[1]


def test_a_file_beside_a_page_of_its_name_is_no_page(copy):
    (copy / "results" / "table.md").write_text(
        "# Table\n\nIn [table.csv](table.csv) [all](table.md).\n"
    )
    (copy / "results" / "table.csv").write_text("a,b\n")
    text = (written(copy, "en").folder / "results" / "table.md").read_text()
    assert "In `results/table.csv` [all](/results/table.md)" in text
