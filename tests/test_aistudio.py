"""The zip for AI Studio: its contents, and a lesson run from it."""
import os
import subprocess
import sys
import zipfile

import nbformat
import pytest

from nam_edu.machinery import aistudio
from nam_edu.__main__ import main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return aistudio.write_bundle(tmp_path_factory.mktemp("zip") / "course.zip")


def test_contents(bundle):
    names = zipfile.ZipFile(bundle).namelist()
    for name in ("main.ipynb", "nam_edu/__init__.py", "notebooks/01_theory.ipynb", "LICENSE",
                 "notebooks/solutions/06_gamma_visualisation.ipynb",
                 "tests/golden/square_channel.npz"):
        assert name in names
    assert len(names) == len(set(names))
    assert not [n for n in names if n.startswith(("/", "..")) or "__pycache__" in n or "runs/" in n]
    assert bundle.stat().st_size < 5 * 2**20


def test_same_files_same_bytes(bundle, tmp_path):
    assert aistudio.write_bundle(tmp_path / "b.zip").read_bytes() == bundle.read_bytes()


def test_the_door_leads_to_the_lessons(bundle, tmp_path):
    zipfile.ZipFile(bundle).extractall(tmp_path)
    door = nbformat.read(tmp_path / "main.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in door.cells)
    places = [text.index(f"(notebooks/0{i}_") for i in range(1, 7)]
    assert places == sorted(places)
    assert "data/data76994/" in text and "num_workers=0" in text and "external-libraries" in text
    assert "install" in text and "paddlepaddle" not in text  # never a second Paddle


def test_a_lesson_runs_from_the_unpacked_bundle(bundle, tmp_path):
    """In an empty folder, with the bundle's own package and a kernel name of AI Studio."""
    zipfile.ZipFile(bundle).extractall(tmp_path)
    path = tmp_path / "notebooks" / "01_theory.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {"name": "py35-paddle1.2.0", "display_name": "PaddlePaddle",
                                    "language": "python"}
    notebook.cells.append(nbformat.v4.new_code_cell(
        f"from pathlib import Path\nassert Path(nam_edu.__file__).resolve().is_relative_to("
        f"{str(tmp_path.resolve())!r})"))
    nbformat.write(notebook, path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax",
         "--nbval-current-env", str(path)], cwd=tmp_path, capture_output=True, text=True,
        env={**environment, "NAM_EDU_PROFILE": "ci"})
    assert result.returncode == 0, result.stdout + result.stderr


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
