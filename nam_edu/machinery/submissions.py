"""Holds what grading reads: the notebooks of a class, and which code an exercise needs.

A notebook is not run from top to bottom: that could take minutes, and one cell could spoil the
others. What runs is the exercise's cell, and before it those statements of the cells above that
define the names it uses.
"""

from __future__ import annotations

import ast
import os
import re
import symtable
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from .errors import NamEduError
from .files import named
from .language import LANGUAGES

HOME = Path(__file__).resolve().parent.parent.parent
LANGUAGE = re.compile(r"""\bsetup\([^)]*\blanguage\s*=\s*["'](\w+)""")
CALL = re.compile(r"""\bcheck\(\s*["'](\d+\.\d+)["']""")


class GradingError(NamEduError):
    """A class that cannot be graded; says why and what to do."""


@dataclass
class Submission:
    """A notebook that was handed in.

    name: its path below the folder. cells: the sources of its code cells. exercises: {number: index
    of its cell}. language: of its call of setup, "zh" or "en", or "". trouble: why it cannot be
    graded, or "".
    """

    name: str
    cells: list = field(default_factory=list)
    exercises: dict = field(default_factory=dict)
    language: str = ""
    trouble: str = ""

    def lessons(self):
        """The lessons that its exercises belong to, ["1"] as a rule."""
        return sorted({number.partition(".")[0] for number in self.exercises}, key=int)


def submissions(folder, known):
    """Every notebook below a folder, in the order of their names, as a `Submission`.

    known: the numbers of the course's exercises. All files are read before any of their code runs.
    Raises GradingError where there is no such folder, one that cannot be read, no notebook in it,
    or two whose names differ only in capitals or in how an accent is written.
    """
    folder = named(folder)
    if not folder.exists():
        raise GradingError(f"there is no folder {folder}: give the folder of the notebooks")
    if not folder.is_dir():
        raise GradingError(f"{folder} is a file: give the folder that the notebooks are in")
    for _ in os.walk(folder, onerror=_refuse_unreadable):
        pass  # rglob passes over what it cannot read
    paths = sorted(
        path
        for path in folder.rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts and not path.name.startswith("._")
    )
    if not paths:
        raise GradingError(f"no notebook (*.ipynb) is in {folder} or below it")
    seen = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise GradingError(f"{other} and {name} have the same name: rename one of them")
    return [_read(path, path.relative_to(folder).as_posix(), known) for path in paths]


def _refuse_unreadable(error):
    raise GradingError(
        f"{error.filename} cannot be read ({error.strerror}): its notebooks would be missing from "
        "the table"
    )


def _read(path, name, known):
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        cells = [str(cell.source) for cell in code]
        tags = [list(cell.metadata.get("tags", ())) for cell in code]
    except OSError as error:
        return Submission(name, trouble=f"cannot be read: {error.strerror}")
    except Exception:  # nbformat raises a dozen kinds
        return Submission(name, trouble="is no Jupyter notebook, or a damaged one")
    exercises = {}
    for index, (source, of_cell) in enumerate(zip(cells, tags)):
        numbers = [t[len("exercise-") :] for t in of_cell if t.startswith("exercise-")]
        # Where a front end dropped the tags, the call of check tells. Of copies the last counts.
        exercises.update((n, index) for n in numbers or CALL.findall(source) if n in known)
    trouble = "" if exercises else "has no cell of an exercise: is it a lesson of this course?"
    said = (found for found in LANGUAGE.findall("\n".join(cells)) if found in LANGUAGES)
    return Submission(name, cells, exercises, next(said, ""), trouble)


def answer_names():
    """{number: the name that its exercise asks for}, from the lessons of this clone."""
    import nbformat

    found = {}
    for path in sorted((HOME / "notebooks").glob("0*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            found.update(re.findall(CALL.pattern + r""",\s*(\w+)\)""", cell.source))
    if not found:
        raise GradingError(
            f"the lessons are not in {HOME / 'notebooks'}: grading reads from them which name each "
            "exercise asks for; run it in a clone of the repository"
        )
    return found


# ------------------------------------------------------------------------------------- the code


def parsed(source):
    """The statements of a cell, in which IPython's %magic and !commands may stand."""
    from IPython.core.inputtransformer2 import TransformerManager

    return ast.parse(TransformerManager().transform_cell(source)).body


def needed(cells, index, name):
    """What must run for the exercise in cells[index]: ([source of the needed part of each cell
    above], source of its cell). Raises SyntaxError where its cell is not valid Python.

    From above come the statements that bind, change or import a name that the exercise's cell uses,
    and those that these need in turn; cells that are not valid Python are passed over.
    """
    own = [statement for statement in parsed(cells[index]) if not _is_check(statement)]
    above = []
    for source in cells[:index]:
        try:
            above.append([s for s in parsed(source) if not _is_check(s)])
        except (SyntaxError, ValueError):
            above.append([])
    bound = set()
    wanted = _looks_up(own, bound)
    if name not in bound:
        wanted.add(name)
    imports = [s for cell in above for s in cell if isinstance(s, (ast.Import, ast.ImportFrom))]
    modules = set().union(*map(_binds, imports))
    kept, grows = set(), True
    while grows:  # a function may use what only a later cell defines
        grows = False
        for statement in (s for cell in above for s in cell):
            bound = _binds(statement)
            if isinstance(statement, ast.Expr):
                bound -= modules  # np.fill_diagonal(table, 0) leaves np as it is
            if id(statement) not in kept and bound & (wanted | {"*"}):
                kept.add(id(statement))
                wanted |= _uses(statement)
                grows = True
    parts = [[s for s in cell if id(s) in kept] for cell in above]
    return [_source(part) for part in parts if part], _source(own)


def is_open(cells, index, name):
    """Whether the cell leaves its answer as the dots of the stub: `name = ...`, or a function that
    only returns `...`."""
    left = False
    for statement in parsed(cells[index]):
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            returns = [n for n in ast.walk(statement) if isinstance(n, (ast.Return, ast.Yield))]
            left = [_is_dots(r.value) for r in returns] == [True]
        elif isinstance(statement, ast.Assign) and name in _binds(statement):
            left = _is_dots(statement.value)
        elif name in _binds(statement):
            left = False
    return left


def _is_dots(node):
    return isinstance(node, ast.Constant) and node.value is ...


def _source(statements):
    return ast.unparse(ast.Module(body=statements, type_ignores=[]))


def _is_check(statement):
    """`check(...)` or `assert check(...)`: the grader asks its own checker."""
    test = getattr(statement, "test" if isinstance(statement, ast.Assert) else "value", None)
    return (
        isinstance(statement, (ast.Expr, ast.Assert))
        and isinstance(test, ast.Call)
        and isinstance(test.func, ast.Name)
        and test.func.id == "check"
    )


def _uses(statement):
    """The names that a statement looks up outside itself: what is local to a function stays out."""

    def of(table):
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
                yield symbol.get_name()
        for inner in table.get_children():
            yield from of(inner)

    found = set(of(symtable.symtable(_source([statement]), "cell", "exec")))
    return found - _of_comprehensions(statement)


def _of_comprehensions(statement):
    """The names that stand only inside comprehensions that bind them; from Python 3.12 on symtable
    takes them for names of the scope around."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    targets, inside = set(), set()
    for node in ast.walk(statement):
        if isinstance(node, kinds):
            bound = set().union(*(_stored(part.target) for part in node.generators))
            targets |= bound
            inside |= {id(n) for n in ast.walk(node) if getattr(n, "id", None) in bound}
    return targets - {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and id(node) not in inside
    }


def _looks_up(statements, bound):
    """The names that statements look up and have not bound themselves before; adds to `bound` those
    that they surely bind: x = 1, def x, class x, import x."""
    wanted = set()
    for statement in statements:
        if isinstance(statement, ast.For):
            loop = ast.Expr(statement.iter)
            inner = bound | _stored(statement.target)
            wanted |= _uses(loop) - bound | _looks_up(statement.body + statement.orelse, inner)
            continue
        wanted |= _uses(statement) - bound
        if isinstance(statement, ast.Assign):
            bound |= set().union(*map(_stored, statement.targets))
        elif isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
            bound |= _binds(statement)
    return wanted


def _stored(target):
    """The names in a target: x, y of x, y = ..., but not x of x[0] = ..."""
    names = (node for node in ast.walk(target) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def _binds(statement):
    """The names that a statement binds, or whose values it changes: x = 1, x[0] = 1, x.a = 1,
    x.append(1), def x, import x; "*" for a star."""
    found = set()
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        if isinstance(statement.value.func, ast.Attribute):
            found.add(_root(statement.value.func))
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
            found.add(_root(node))
    return found - {None}


def _root(node):
    """`x` of x, x.a.b, x[0] and x.f(1).g; None where there is none."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
