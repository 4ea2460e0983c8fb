"""The map of the house in README.md is the real one: imports go up the page, never down."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nam_edu"
FILES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def floors():
    """The modules of README's map in its order: {"machinery/files": 0, ...}."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text.split("<!-- floors -->")[1].split("<!-- end -->")[0]
    names = []
    for line in re.findall(r"(?m)^  ([a-z_].*?)(?:  .*)?$", text):
        folder, _, rest = line.rpartition("/") if "/" in line else ("", "", line)
        names += [f"{folder}/{n}" if folder else n for n in rest.split()]
    return {name: floor for floor, name in enumerate(names)}


def imported(name, text):
    """The modules of the package that a file imports, anywhere in it."""
    package = ["nam_edu", *name.split("/")[:-1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = base + (node.module.split(".") if node.module else [])
            candidates = [parts] + [parts + [alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            candidates = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for parts in candidates:
            if parts[:1] == ["nam_edu"] and "/".join(parts[1:]) in FILES:
                yield "/".join(parts[1:])


def test_the_map_names_every_file_and_no_other():
    assert sorted(floors()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_imports_go_up_the_page(name):
    order = floors()
    for other in imported(name, FILES[name].read_text(encoding="utf-8")):
        assert order[other] < order[name], f"{name} imports {other}, which stands below it"


def test_an_import_that_goes_down_is_seen():
    assert list(imported("machinery/files", "def f():\n    from ..training import fit")) == [
        "training"
    ]
    assert list(imported("data", "from .machinery import safe_pickle")) == ["machinery/safe_pickle"]
    assert list(imported("data", "import nam_edu.resnet, os")) == ["resnet"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_holds(name):
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert ("matplotlib" in names) == (name == "plots")


def test_every_subpackage_is_in_the_wheel():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"(?m)^packages = \[(.*)\]", text).group(1)
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(re.findall(r'"([^"]+)"', listed)) == found
