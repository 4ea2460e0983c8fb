"""The zip for AI Studio: its contents, and a lesson run from it."""

import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest

from nam_edu.__main__ import main
from nam_edu.backend import LESSON_PACKAGES, importable
from nam_edu.machinery import aistudio
from nam_edu.machinery.doctor import FIRST_CELL


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return aistudio.write_bundle(tmp_path_factory.mktemp("zip") / "course.zip")


def test_contents(bundle):
    names = zipfile.ZipFile(bundle).namelist()
    for name in (
        "main.ipynb",
        "nam_edu/__init__.py",
        "notebooks/01_theory.ipynb",
        "LICENSE",
        "notebooks/solutions/07_your_own_gate.ipynb",
        "nam_edu/exercises/lesson1.py",
        "nam_edu/locale/zh/LC_MESSAGES/nam_edu.mo",
        "results/tints.csv",
        "tests/golden/square_channel.npz",
    ):
        assert name in names
    assert len(names) == len(set(names))
    assert not [n for n in names if n.startswith(("/", "..")) or "__pycache__" in n or "runs/" in n]
    assert bundle.stat().st_size < 5 * 2**20


def test_same_files_same_bytes(bundle, tmp_path):
    assert aistudio.write_bundle(tmp_path / "b.zip").read_bytes() == bundle.read_bytes()


def test_the_first_page_leads_to_the_lessons(bundle, tmp_path):
    zipfile.ZipFile(bundle).extractall(tmp_path)
    page = nbformat.read(tmp_path / "main.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in page.cells)
    links = [text.index(f"(notebooks/{folder}0{i}_") for i in range(1, 8) for folder in ("zh/", "")]
    assert links == sorted(links)  # lesson by lesson, Chinese first
    assert "data/data76994/" in text and "num_workers=0" in text and "external-libraries" in text
    assert "install" in text and "paddlepaddle" not in text  # never a second Paddle


def test_a_lesson_runs_from_the_unpacked_bundle(bundle, tmp_path):
    """In an empty folder, with the bundle's own package and a kernel name of AI Studio."""
    zipfile.ZipFile(bundle).extractall(tmp_path)
    path = tmp_path / "notebooks" / "01_theory.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {
        "name": "py35-paddle1.2.0",
        "display_name": "PaddlePaddle",
        "language": "python",
    }
    notebook.cells.append(
        nbformat.v4.new_code_cell(
            f"from pathlib import Path\nassert Path(nam_edu.__file__).resolve().is_relative_to("
            f"{str(tmp_path.resolve())!r})"
        )
    )
    nbformat.write(notebook, path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--nbval-lax",
            "--nbval-current-env",
            str(path),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**environment, "NAM_EDU_PROFILE": "ci"},
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_chinese_notebooks_go_in_without_pictures():
    picture = nbformat.v4.new_output("display_data", {"text/html": '<img src="x;base64,ab">'})
    said = nbformat.v4.new_output("stream", name="stdout", text="数据\n")
    cell = nbformat.v4.new_code_cell("x", outputs=[said, picture])
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("门控")])
    without = aistudio.without_pictures(nbformat.writes(notebook).encode())
    notebook.cells[0].outputs = [said]
    assert nbformat.reads(without.decode(), as_version=4) == notebook


def test_every_part_of_the_package_is_in_the_zip(bundle):
    """All but what only a clone uses: the sources of the catalogues."""
    root = Path(aistudio.__file__).parent.parent
    names = set(zipfile.ZipFile(bundle).namelist())
    for path in root.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".po":
            assert f"nam_edu/{path.relative_to(root).as_posix()}" in names


def test_without_a_clone(tmp_path, monkeypatch):
    with pytest.raises(aistudio.BundleError, match="from a clone of the repository"):
        aistudio.write_bundle(tmp_path / "x.zip", root=tmp_path)
    with pytest.raises(aistudio.BundleError, match="is a folder"):
        aistudio.write_bundle(tmp_path)
    monkeypatch.setattr(aistudio, "LIMIT", 1000)
    with pytest.raises(aistudio.BundleError, match="more than"):
        aistudio.write_bundle(tmp_path / "x.zip")
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_command(tmp_path, capsys):
    assert main(["aistudio", "--out", str(tmp_path / "course.zip")]) == 0
    assert "main.ipynb" in capsys.readouterr().out


def wheel(folder, name, requires=()):
    """A wheel with one empty module."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as packed:
        packed.writestr(f"{name}.py", "")
        packed.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            + "".join(f"Requires-Dist: {other}\n" for other in requires),
        )
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/RECORD", "")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Pip finds the wheels of this folder alone; AI Studio's folder is tmp_path/home/libs."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "path_importer_cache", dict(sys.path_importer_cache))
    return tmp_path / "wheels"


@pytest.mark.skipif(not importable("pip"), reason="this Python has no pip")
def test_only_what_is_missing_is_installed(shop, tmp_path, capfd):
    """With a real pip. There is no wheel of NumPy, so a copy of it could not be made."""
    wheel(shop, "nam_shop_a", ["numpy", "nam_shop_b"])
    wheel(shop, "nam_shop_b")
    wheel(shop, "nam_shop_c", ["nam_shop_b"])
    libraries = tmp_path / "home" / "libs"
    install = partial(aistudio.install_missing, folder=libraries)
    assert sorted(install(["tqdm", "nam_shop_a"])) == ["nam_shop_a==1.0", "nam_shop_b==1.0"]
    made = {path.name for path in libraries.iterdir()}
    assert {"nam_shop_a.py", "nam_shop_b.py"} <= made and "numpy" not in made
    assert str(libraries) in sys.path and importable("nam_shop_a")
    out, err = capfd.readouterr()
    assert out == f"Installing nam_shop_a into {libraries}, once ...\n" and err == ""
    assert install(["tqdm", "nam_shop_a"]) == [] and sys.path.count(str(libraries)) == 1
    assert install(["nam_shop_a", "nam_shop_c"]) == ["nam_shop_c==1.0"]  # b is in the folder
    (libraries / "nam_shop_b.py").unlink()  # what is left of b still looks installed to pip
    assert install(["nam_shop_b"]) == ["nam_shop_b"]
    assert capfd.readouterr().err == ""


def test_a_pip_without_plans_installs_all(tmp_path, monkeypatch):
    calls = []

    def old_pip(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 2 if "--dry-run" in command else 0, b"")

    monkeypatch.setattr(subprocess, "run", old_pip)
    monkeypatch.setattr(sys, "path", list(sys.path))
    aistudio.install_missing(["nam_shop_a"], tmp_path / "libs")
    assert len(calls) == 2 and "--no-deps" not in calls[1] and "nam_shop_a" in calls[1]
    assert f"numpy=={np.__version__}" in calls[1] and str(tmp_path / "libs") in calls[1]
    calls.clear()
    aistudio.install_missing(["nam_shop_a"], tmp_path / "no" / "libs")  # not AI Studio
    (command,) = calls
    assert "-t" not in command and not (tmp_path / "no").exists()


def test_the_first_cell_installs_before_it_sets_up():
    page = nbformat.read(Path(__file__).parent.parent / aistudio.FIRST_PAGE, as_version=4)
    source = next(cell.source for cell in page.cells if cell.cell_type == "code")
    assert source.index("install_missing()") < source.index("nam_edu.setup(")
    assert set(LESSON_PACKAGES) < set(FIRST_CELL)


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def clone(tmp_path):
    """A small course in a folder of its own, not yet a git clone."""
    for name in (
        aistudio.FIRST_PAGE,
        "notebooks/01_theory.ipynb",
        "nam_edu/__init__.py",
        "nam_edu/machinery/files.py",
        "tests/golden/a.npz",
        "tests/test_a.py",
        "LICENSE",
        "experiments/nam_edu/no.py",
    ):
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"as given: {name}")
    return tmp_path / "clone"


def contents(path):
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name).decode() for name in bundle.namelist()}


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_learners_edits_stay_out_of_the_zip(clone, tmp_path, capsys):
    on_disk = contents(aistudio.write_bundle(tmp_path / "a.zip", clone))
    assert "as they are on disk" in capsys.readouterr().out
    git(clone, "init", "-q")
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "the course")
    (clone / "notebooks" / "01_theory.ipynb").write_text("my answers")
    (clone / "notebooks" / "notes.ipynb").write_text("my notes")
    committed = contents(aistudio.write_bundle(tmp_path / "b.zip", clone))
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "as committed" in out
    assert committed == on_disk and list(committed) == list(on_disk)
    assert sorted(committed) == [
        "LICENSE",
        "main.ipynb",
        "nam_edu/__init__.py",
        "nam_edu/machinery/files.py",
        "notebooks/01_theory.ipynb",
        "tests/golden/a.npz",
    ]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_course_inside_another_clone_is_taken_from_disk(clone, tmp_path, capsys):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "nothing", "--allow-empty")
    assert "notebooks/01_theory.ipynb" in contents(aistudio.write_bundle(tmp_path / "a.zip", clone))
    assert "as they are on disk" in capsys.readouterr().out


def test_without_git_the_files_are_taken_from_disk(clone, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "LICENSE" in contents(aistudio.write_bundle(tmp_path / "a.zip", clone))
    assert "as they are on disk" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_to_is_named(clone, tmp_path):
    """The file that was asked for, not the temporary one. Even root makes no file in a file."""
    target = clone / "LICENSE" / "course.zip"
    with pytest.raises(aistudio.BundleError) as error:
        aistudio.write_bundle(target, clone)
    assert str(error.value).startswith(f"{target} cannot be written (")
    assert "--out" in str(error.value)


def test_a_read_only_folder_is_named(clone, tmp_path, monkeypatch):
    def read_only(**arguments):
        raise PermissionError(13, "Permission denied", str(tmp_path / ".course.zip.k2j3"))

    monkeypatch.setattr("nam_edu.machinery.files.tempfile.mkstemp", read_only)
    with pytest.raises(aistudio.BundleError, match=r"course.zip cannot be written \(Permission"):
        aistudio.write_bundle(tmp_path / "course.zip", clone)
