"""The committed notebooks: executed, clean, and whole."""

import ast
import base64
import re
import struct
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import Images

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path
    for path in (ROOT / "notebooks").rglob("*.ipynb")
    if not {".ipynb_checkpoints", "runs"} & set(path.parts)
)
A_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|usr|opt|Users)/|[A-Z]:\\")  # of somebody's machine
LESSONS = [path for path in NOTEBOOKS if path.parent.name == "notebooks"]


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def pictures(cell):
    """The pictures that a cell shows, as attributes of an <img>."""
    if cell.cell_type == "markdown":
        drawn = [
            {"src": s, "alt": a} for a, s in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", cell.source)
        ]
        return drawn + Images(cell.source).found
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        found += Images("".join(data.get("text/html", ""))).found
        if "image/png" in data and "text/html" not in data:
            alt = output.metadata.get("image/png", {}).get("alt")
            found.append({"src": f"data:image/png;base64,{data['image/png']}", "alt": alt})
    return found


def test_seven_lessons_and_their_solutions():
    names = [
        "01_theory.ipynb",
        "02_layer.ipynb",
        "03_network.ipynb",
        "04_training.ipynb",
        "05_evaluation.ipynb",
        "06_gamma_visualisation.ipynb",
        "07_your_own_gate.ipynb",
    ]
    assert [path.name for path in LESSONS] == names
    assert (
        sorted(p.name for p in NOTEBOOKS if p.parent == ROOT / "notebooks" / "solutions") == names
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT).as_posix())
class TestNotebook:
    def test_format_kernel_and_size(self, path):
        notebook = read(path)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"
        assert path.stat().st_size < 1.5e6

    def test_was_executed_from_top_to_bottom(self, path):
        assert [cell.execution_count for cell in code_cells(path)] == list(
            range(1, 1 + len(code_cells(path)))
        )

    def test_outputs_are_clean(self, path):
        for cell in code_cells(path):
            for output in cell.outputs:
                assert output.output_type != "error", output
                assert output.get("name") != "stderr", output
                text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain"))
                assert not A_PATH.search(text), text
                assert "Warning" not in text and "VBox(" not in text

    def test_source_has_no_path_of_a_machine(self, path):
        for cell in read(path).cells:
            assert not A_PATH.search(cell.source.replace("/home/aistudio", ""))

    def test_links_resolve(self, path):
        # main.ipynb will stand at the root of AI Studio's project.
        base = ROOT if path.name == "main.ipynb" else path.parent
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                    if not target.startswith("http"):
                        file = (base / target.split("#")[0]).resolve()
                        assert file.exists(), target
                        # `jupyter lab notebooks/` and a site of the lessons show nothing above it.
                        assert path.name == "main.ipynb" or ROOT / "notebooks" in file.parents

    def test_every_picture_says_what_is_seen(self, path):
        for cell in read(path).cells:
            for picture in pictures(cell):
                assert len(picture.get("alt") or "") >= 20, cell.source

    def test_sets_up_first(self, path):
        first = code_cells(path)[0]
        call = re.search(r"nam_edu\.setup\(seed=0(, language=\"zh\")?\)", first.source)
        printed = "".join(output.get("text", "") for output in first.outputs)
        seed = "随机种子 0" if call.group(1) else "seed 0"
        assert "nam_edu" in printed and "Paddle 3" in printed and seed in printed
        assert bool(call.group(1)) == ("zh" in path.relative_to(ROOT).parts)


def finding_the_package(path):
    """The statements of a notebook's first cell before it imports anything from nam_edu."""
    lines = []
    for statement in ast.parse(code_cells(path)[0].source).body:
        line = ast.unparse(statement)
        if isinstance(statement, (ast.Import, ast.ImportFrom)) and "nam_edu" in line:
            return "\n".join(lines)
        lines.append(line)


def test_all_notebooks_find_the_package_in_the_same_way():
    assert len({finding_the_package(path) for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize(
    "below", (".", "notebooks", "notebooks/solutions", "notebooks/zh/solutions", "a/b/c/d/e")
)
def test_a_notebook_finds_the_nearest_package_above_it(below, tmp_path):
    for place in (tmp_path, tmp_path / "clone"):
        (place / "nam_edu").mkdir(parents=True)
        (place / "nam_edu" / "__init__.py").touch()
    here = tmp_path / "clone" / below
    here.mkdir(parents=True, exist_ok=True)
    code = finding_the_package(NOTEBOOKS[0]) + "\nimport nam_edu; print(nam_edu.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == tmp_path / "clone" / "nam_edu" / "__init__.py"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
class TestLesson:
    def test_has_the_shape_of_a_lesson(self, path):
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        for part in (
            "At the end of this lesson you have",
            "**You will be able to**",
            "**You need**",
            "**Time**",
            "**Predict",
            "# Exercises",
            "# Summary",
            "# In practice: where the sources differ",
        ):
            assert part in text, part
        assert re.search(r"\*\*(Next|Where to go next)", text)

    def test_answers_are_folded_and_guesses_compared(self, path):
        """After "Predict": a cell for the guess, then one that compares it, its output folded."""
        cells = read(path).cells
        asked = [n for n, cell in enumerate(cells) if "**Predict" in cell.source]
        assert len(asked) == sum("guess" in cell.metadata.get("tags", ()) for cell in cells) > 0
        for n in asked:
            guess = cells[n + 1]
            assert guess.metadata.tags == ["guess"] and not guess.get("outputs")
            name = re.match(r"(guess_\w+) = \.\.\. +# your guess", guess.source).group(1)
            answer = next(cell for cell in cells[n + 2 :] if f"compare({name}, " in cell.source)
            assert "hide-output" in answer.metadata.tags  # a site folds it
        for cell in cells:
            hidden = cell.metadata.get("jupyter", {}).get("outputs_hidden", False)  # JupyterLab
            assert hidden == ("hide-output" in cell.metadata.get("tags", ()))

    def test_pictures_are_there_and_fit_a_page(self, path):
        drawn = [picture for cell in code_cells(path) for picture in pictures(cell)]
        assert len(drawn) >= 3
        for picture in drawn:
            png = base64.b64decode(picture["src"].split("base64,")[1])
            width, height = struct.unpack(">II", png[16:24])
            wanted = re.search(r"width: (\d+)px", picture.get("style", ""))
            shown = int(wanted.group(1)) if wanted else width  # a sharp one has more pixels
            assert 150 < shown <= 900 and height * shown / width <= 900

    def test_every_picture_is_followed_by_words(self, path):
        cells = read(path).cells
        for cell, after in zip(cells, cells[1:]):
            if cell.cell_type == "code" and pictures(cell):
                assert after.cell_type == "markdown" or "plots." in after.source, cell.source

    def test_code_is_short(self, path):
        for cell in code_cells(path):
            assert cell.source.count("\n") < 26, cell.source
            assert max(map(len, cell.source.splitlines())) <= 125, cell.source


def test_the_guards_can_fail():
    """What they look for is found where it is."""
    assert A_PATH.search("saved to /home/ann/runs") and not A_PATH.search("runs/lesson4, 1/2")
    assert NOTEBOOKS and all(any(map(pictures, read(path).cells)) for path in LESSONS)
    assert pictures(nbformat.v4.new_markdown_cell("![a\nb](c.png)")) == [
        {"src": "c.png", "alt": "a\nb"}
    ]
    png = nbformat.v4.new_output("display_data", data={"image/png": "abc"})
    assert pictures(nbformat.v4.new_code_cell(outputs=[png]))[0]["alt"] is None
