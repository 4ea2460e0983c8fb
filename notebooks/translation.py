"""The Chinese edition: its notebooks are twins of the English ones, cell by cell.

For maintainers. Every notebook has its twin below zh/, with the same cells, by their ids. A Chinese
text cell, and a code cell with comments, keeps in its metadata (`translates`) the hash of the
English text that it translates: when that text changes, the twin is stale until somebody has read
it again. Code, outputs and tags are the English ones.

    python notebooks/translation.py new [NAME ...]       make twins, or bring their cells up to date
    python notebooks/translation.py export NAME [--stale] > FILE     texts, to be translated
    python notebooks/translation.py import FILE          put the translated texts into the twin
    python notebooks/translation.py status [NAME ...]    what is stale, lost or wrong
    python notebooks/translation.py read NAME CELL-ID    mark one cell as read again
    python notebooks/translation.py outputs [NAME ...]   copy the English outputs, translated
    python notebooks/translation.py messages             bring the catalogue of messages up to date

NAME is 02_layer or solutions/02_layer; without a name all notebooks are meant.
"""

import argparse
import ast
import copy
import difflib
import functools
import hashlib
import html
import io
import os
import re
import string
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import chinese
import nbformat
from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po, write_po

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "nam_edu"
CATALOGUE = PACKAGE / "locale" / "zh" / "LC_MESSAGES" / "nam_edu.po"
CHINESE = "--- 中文 ---"
HEADER = re.compile(r"^=== (\S+) · (\S+) · (markdown|code) · ([0-9a-f]{12}) ===$", re.M)
# Comments that all notebooks share.
COMMON = {"# where nam_edu may lie, installed or not": "# nam_edu 可能在的地方，装没装都行"}
NUMBER = re.compile(r"(?<![A-Za-z_])\d+(?:[.,]\d+)*|[½¼¾⅓⅔]")


class TranslationError(Exception):
    """A file or a name that cannot be used; says why."""


# --------------------------------------------------------------------------------- notebooks


def lessons(names=()):
    """The paths of the English notebooks: lessons and solutions, or those named."""
    found = sorted(HERE.glob("*.ipynb")) + sorted((HERE / "solutions").glob("*.ipynb"))
    by_name = {path.relative_to(HERE).with_suffix("").as_posix(): path for path in found}
    wanted = [name.removesuffix(".ipynb").removeprefix("zh/") for name in names]
    for name in wanted:
        if name not in by_name:
            raise TranslationError(f"there is no notebook {name}; there are {', '.join(by_name)}")
    return [by_name[name] for name in wanted] if wanted else found


def twin_of(path):
    """Where the Chinese twin of an English notebook lies."""
    return HERE / "zh" / path.relative_to(HERE)


def name_of(path):
    return path.relative_to(HERE).with_suffix("").as_posix()


def read(path):
    try:
        return nbformat.read(path, as_version=4)
    except ValueError as error:  # no JSON
        raise TranslationError(f"{path} is no notebook: {str(error)[:60]!r}") from None


def write_whole(path, data):
    """Write bytes to a file, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(notebook, path):
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode("utf-8"))


# --------------------------------------------------------------------------------------- code


def comments(source):
    """[(row, column, text)] of the comments in a cell's code, by Python's tokenizer; none where
    the source is no Python."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError):
        return []
    return [(*t.start, t.string) for t in tokens if t.type == tokenize.COMMENT]


def to_translate(source):
    """The comments of a code cell that have words in them."""
    return [text for _, _, text in comments(source) if re.search("[A-Za-z]{2}", text)]


def with_comments(source, texts):
    """The code with these in place of the comments that `to_translate` names."""
    lines, texts = source.split("\n"), list(texts)
    for row, column, text in comments(source):
        if re.search("[A-Za-z]{2}", text):
            lines[row - 1] = lines[row - 1][:column] + texts.pop(0)
    return "\n".join(lines)


def code(source):
    """The code without comments, and without what stands between the brackets of setup(...)."""
    lines = source.split("\n")
    for row, column, _ in comments(source):
        lines[row - 1] = lines[row - 1][:column]
    bare = "\n".join(line.rstrip() for line in lines)
    try:
        tree = ast.parse(bare)
    except SyntaxError:
        return bare
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nam_edu.setup":
            bare = bare.replace(ast.get_source_segment(bare, node), "nam_edu.setup()")
    return bare


def in_chinese(source):
    """An English code cell as the Chinese edition has it, its comments untouched."""
    return source.replace("nam_edu.setup(seed=0)", 'nam_edu.setup(seed=0, language="zh")')


# ------------------------------------------------------------------------------------- hashes


def translatable(cell):
    """What is translated of an English cell: its text, or its comments; "" if nothing is."""
    if cell.cell_type == "code":
        return "\n".join(to_translate(cell.source))
    return cell.source


def hash_of(cell):
    """The hash of what is translated of an English cell, or None."""
    text = translatable(cell)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text.strip() else None


def text_of(cell):
    """The Chinese text of a twin's cell: its text, or its comments, a line each."""
    if cell.cell_type == "code":
        return "\n".join(text for _, _, text in comments(cell.source))
    return cell.source


# -------------------------------------------------------------------------------------- twins


def memory(names):
    """{(cell type, hash): Chinese} of all twins: a solution repeats the text of its exercise."""
    known = {}
    for path in map(twin_of, lessons()):
        for cell in read(path).cells if path.is_file() else ():
            if cell.metadata.get("translates"):
                known[cell.cell_type, cell.metadata.translates] = cell.source
    return known


def make(english, old, known):
    """The twin of an English notebook; texts are taken from the old twin, or from `known`."""
    notebook, olds = copy.deepcopy(english), {cell.id: cell for cell in old.cells} if old else {}
    for cell, original in zip(notebook.cells, english.cells):
        wanted, before = hash_of(original), olds.get(cell.id)
        if before is not None and before.cell_type != cell.cell_type:
            before = None
        if cell.cell_type == "code":
            cell.source = in_chinese(cell.source)
            ours = to_translate(cell.source)
            if before is not None and len(comments(before.source)) == len(comments(cell.source)):
                kept = [text for _, _, text in comments(before.source)]
                theirs = comments(cell.source)
                kept = [new for new, (_, _, text) in zip(kept, theirs) if text in ours]
                cell.source = with_comments(cell.source, kept)
                if wanted:
                    cell.metadata["translates"] = before.metadata.get("translates", "")
            elif wanted:
                cell.source = with_comments(cell.source, [COMMON.get(c, c) for c in ours])
                done = all(c in COMMON for c in ours)
                cell.metadata["translates"] = wanted if done else ""
        elif before is not None and before.metadata.get("translates"):
            cell.source, cell.metadata["translates"] = before.source, before.metadata.translates
        elif ("markdown", wanted) in known:
            cell.source, cell.metadata["translates"] = known["markdown", wanted], wanted
        elif wanted:
            cell.metadata["translates"] = ""
    copy_outputs(english, notebook)
    return notebook


def copy_outputs(english, twin):
    """Give the cells of a twin the outputs and counts of the English cells, translated."""
    originals = {cell.id: cell for cell in english.cells}
    for cell in twin.cells:
        original = originals.get(cell.id)
        if cell.cell_type == "code" and original is not None and original.cell_type == "code":
            cell.outputs = [translated(output) for output in original.outputs]
            cell.execution_count = original.execution_count


def translated(output):
    """An English output with its messages and alternative texts in Chinese."""
    output = copy.deepcopy(output)
    if output.output_type == "stream":
        lines = output.text.split("\n")
        output.text = "\n".join(line_in_chinese(line) for line in lines)
        return output
    data = output.get("data", {})
    if "text/html" in data:  # a picture, or a line that counts along
        data["text/html"] = re.sub(
            r'(?<=alt=")[^"]*(?=")|(?<=aria-label=")[^"]*(?=")|(?<=<div>)[^<]*(?=</div>)',
            lambda match: html.escape(said_in_chinese(html.unescape(match[0]))),
            data["text/html"],
        )
        data["text/plain"] = said_in_chinese(data["text/plain"])
    return output


# ----------------------------------------------------------------------------------- messages


WITHIN_A_SENTENCE = r"(?:(?!\. (?![-\d\]])).)*?"  # "[2. 1. 0.]" is within one
A_NUMBER = r"[-−+]?\d[\d.,]*(?:e[-−+]?\d+)?"
A_TIME = r"[\d hmins]+"
# Names of gaps that hold numbers or times, and the messages that stand inside of others.
GAPS = dict.fromkeys(
    "n count rows columns epoch epochs low high lowest highest lowest_2 highest_2 mean share "
    "weight minutes seconds hours loss top1 top5 eval_top1 eval_top5".split(),
    A_NUMBER,
)
GAPS["time"] = A_TIME
INSIDE = (
    "from {low} to {high}",
    ", lowest {value}",
    ", highest {value}",
    ", mean {mean}",
    ", from weight decay alone {value}",
    "at {value}, dashed",
)
DRAWN = ("plots", "progress", "recorder")
COUNTED = PACKAGE / "machinery" / "progress.py"  # where the nouns that a line counts are said


@functools.cache
def phrases(of_pictures):
    """[(pattern, message, Chinese)] of the catalogue, longest first: of what pictures and lines
    that count along say, or of what is printed."""
    found = []
    for message in catalogue():
        files = [Path(file) for file, _ in message.locations]
        from_pictures = any(file.suffix == ".ipynb" or file.stem in DRAWN for file in files)
        if message.id and from_pictures == of_pictures and literal(message.id).strip():
            found.append((pattern(message.id), message.id, message.string))
    return sorted(found, key=lambda row: -len(literal(row[1])))


def literal(message):
    """The words of a message, without its {gaps}."""
    return "".join(text for text, _, _, _ in string.Formatter().parse(message))


def pattern(message, gap=None):
    """A regular expression for what a message becomes when its {gaps} are filled."""
    parts, seen = [], set()
    for text, name, _, _ in string.Formatter().parse(message):
        parts.append(re.escape(text))
        if name is not None:
            inner = gap or GAPS.get(name, WITHIN_A_SENTENCE)
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{inner})")
            seen.add(name)
    return re.compile("".join(parts), re.S)


def filled(chinese_message, match, within):
    """A Chinese message with the gaps of a match, whose contents `within` translates."""
    values = {name: within(value) for name, value in match.groupdict().items()}
    parts = string.Formatter().parse(chinese_message)
    return "".join(text + (values[name] if name is not None else "") for text, name, _, _ in parts)


def line_in_chinese(line):
    """A printed line in Chinese, if it is a message; else as it is."""
    if " | " in line and line.startswith("nam_edu "):  # the line of setup()
        return " | ".join(printed_in_chinese(part, 1) or part for part in line.split(" | "))
    mark = re.match(r"[✓✗] [\d.]+: ", line)
    start = mark.end() if mark else 0
    said = printed_in_chinese(line[start:], 1 if mark else 8)
    return line[:start] + said if said else line


def printed_in_chinese(text, least):
    """A printed text in Chinese, or None if it is no message with `least` characters of its own."""
    for expression, message, ours in phrases(False):
        match = len(literal(message).strip()) >= least and expression.fullmatch(text)
        if match:
            return filled(ours, match, lambda value: printed_in_chinese(value, 8) or value)
    return None


def said_in_chinese(text):
    """An alternative text in Chinese: messages one behind the other; else it stays as it is."""
    return sentences_in_chinese(text) or text


def sentences_in_chinese(text):
    """As many sentences as there are, each of them a message; None where one is not."""
    for stop in re.finditer(r"\. ", text):
        first = drawn_in_chinese(text[: stop.start() + 1])
        rest = first and sentences_in_chinese(text[stop.end() :])
        if rest:
            return f"{first} {rest}"
    return drawn_in_chinese(text)


def drawn_in_chinese(text, least=1):
    """A sentence about a picture, or a line that counts along, in Chinese, or None if it is no
    message that has no gaps, or `least` characters beside them."""
    for expression, message, ours in phrases(True):
        match = message not in INSIDE and message.endswith(".") == text.endswith(".")
        match = match and expression.fullmatch(text)
        if match and (len(literal(message).strip()) >= least or not match.groupdict()):
            return filled(ours, match, gap_in_chinese)
    return None


def gap_in_chinese(text):
    """What fills a gap of a sentence: a message, or text in which messages about numbers stand."""
    whole = drawn_in_chinese(text, 1 if re.fullmatch(A_TIME, text) else 6)
    if whole:
        return whole
    parts = []
    for part in text.split("; "):
        ours = drawn_in_chinese(part, 12)
        for message in INSIDE if ours is None else ():
            chinese_message = catalogue()[message].string
            part = pattern(message, A_NUMBER).sub(
                lambda match, ours=chinese_message: filled(ours, match, str), part
            )
        parts.append(ours or part)
    return "; ".join(parts)


# ------------------------------------------------------------------------------------- checks


def facts(text):
    """What an English text and its Chinese twin share: {kind: Counter of pieces}."""
    inline, found = chinese.CODE.findall(text), {}
    text = chinese.CODE.sub(" ", text)
    formulas = chinese.FORMULA.findall(text)
    text = chinese.FORMULA.sub(" ", text)
    found["code"] = Counter(inline)
    found["formula"] = Counter(re.sub(r"\\text\{[^}]*\}", r"\\text{}", f) for f in formulas)
    found["link"] = Counter(re.findall(r"\]\(([^)\s]+)\)", text))
    text = chinese.LINK.sub(" ", text)
    found["number"] = Counter(NUMBER.findall(text))
    found["heading, list or table row"] = Counter(
        m.strip() for m in re.findall(r"^ *(?:#+|[-*]|\d+\.)(?= )|^\|(?=.)", text, re.M)
    )
    return found


def relocated(target):
    """A link of an English notebook, as its twin has it: to the twin of a notebook, else to the
    same file from one folder farther down."""
    if re.match("[a-z]+:|#", target) or target.split("#")[0].endswith(".ipynb"):
        return target
    return "../" + target


def different_facts(english, ours):
    """What an English text has and its Chinese twin has not, or the other way round."""
    found, theirs, mine = [], facts(english), facts(ours)
    theirs["link"] = Counter(map(relocated, theirs["link"].elements()))
    for kind, want in theirs.items():
        have = mine[kind]
        found += [f"{kind} {piece!r} is lost" for piece in (want - have).elements()]
        found += [f"{kind} {piece!r} is not in the English" for piece in (have - want).elements()]
    return found


def problems(original, cell):
    """What is wrong with a twin's cell, beside its outputs, as a list of sentences."""
    found = []
    if cell.cell_type != original.cell_type:
        return [f"is {cell.cell_type}, the English cell is {original.cell_type}"]
    if {**cell.metadata, "translates": 0} != {**original.metadata, "translates": 0}:
        found.append(f"has the metadata {dict(cell.metadata)}, not {dict(original.metadata)}")
    if cell.cell_type == "code" and code(cell.source) != code(original.source):
        lines = difflib.unified_diff(
            code(original.source).split("\n"), code(cell.source).split("\n"), lineterm="", n=0
        )
        found.append("its code differs:\n" + "\n".join(list(lines)[2:]))
    wanted = hash_of(original)
    if not wanted:
        return found
    if not cell.metadata.get("translates"):
        return [*found, "is not translated"]
    if cell.metadata.translates != wanted:
        found.append("is stale: the English has changed")
    if cell.cell_type == "markdown":
        found += different_facts(original.source, cell.source)
        if not re.search(f"[{chinese.HAN}]", cell.source):
            found.append("has no Chinese")
    found += chinese.complaints(text_of(cell), markdown=cell.cell_type == "markdown")
    return found


def all_problems(english, twin):
    """[(cell id, what is wrong)] of a twin, its outputs included; [] if all is well."""
    found, theirs = [], {cell.id: cell for cell in twin.cells}
    wanted = [cell.id for cell in english.cells]
    found += [(i, "is lost: run `translation.py new`") for i in wanted if i not in theirs]
    found += [(i, "is no cell of the English notebook") for i in theirs if i not in wanted]
    if not found and wanted != list(theirs):
        found.append(("cells", "stand in another order"))
    for original in english.cells:
        cell = theirs.get(original.id)
        if cell is None:
            continue
        found += [(cell.id, problem) for problem in problems(original, cell)]
        if cell.cell_type == original.cell_type == "code":
            if cell.outputs != [translated(output) for output in original.outputs]:
                found.append((cell.id, "has other outputs: run `translation.py outputs`"))
            if cell.execution_count != original.execution_count:
                found.append((cell.id, "has another count: run `translation.py outputs`"))
    if english.metadata != twin.metadata:
        found.append(("notebook", "has other metadata"))
    return found


def before_the_change(path, cell_id, wanted):
    """The text of an English cell that has this hash, from the history of the clone, or None."""
    git = ["git", "-C", str(path.parent)]
    log = subprocess.run(
        [*git, "log", "--format=%H", "--", path.name], capture_output=True, text=True
    )
    for commit in log.stdout.split()[:200]:
        shown = subprocess.run(
            [*git, "show", f"{commit}:./{path.name}"], capture_output=True, text=True
        ).stdout
        for cell in nbformat.reads(shown, as_version=4).cells if shown else ():
            if cell.get("id") == cell_id and hash_of(cell) == wanted:
                return translatable(cell)
    return None


def difference(path, original, cell):
    """How an English cell has changed since its twin was read, as lines of a diff."""
    old = before_the_change(path, original.id, cell.metadata.translates)
    if old is None:
        return (
            f"its old text is not in this clone's history; the new one:\n{translatable(original)}"
        )
    new = translatable(original)
    return "\n".join(
        list(difflib.unified_diff(old.split("\n"), new.split("\n"), lineterm="", n=0))[2:]
    )


# ----------------------------------------------------------------------------------- commands


def new(names):
    for path in lessons(names):
        target = twin_of(path)
        old = read(target) if target.is_file() else None
        twin = make(read(path), old, memory(names))
        write(twin, target)
        left = sum(cell.metadata.get("translates") == "" for cell in twin.cells)
        print(f"zh/{name_of(path)}.ipynb: {left} cells are left to translate")


def existing(names):
    """[(path, English notebook, its twin)] of those that have a twin."""
    paths = [path for path in lessons(names) if names or twin_of(path).is_file()]
    for path in paths:
        if not twin_of(path).is_file():
            raise TranslationError(f"{name_of(path)} has no twin yet: run `translation.py new`")
    return [(path, read(path), read(twin_of(path))) for path in paths]


def status(names):
    bad = 0
    for path, english, twin in existing(names):
        found = all_problems(english, twin)
        bad += len(found)
        print(f"zh/{name_of(path)}.ipynb: {len(found) or 'no'} problems")
        originals, cells = ({c.id: c for c in book.cells} for book in (english, twin))
        for cell_id, problem in found:
            print(f"  {cell_id}: {problem}")
            if problem.startswith("is stale"):
                print(difference(path, originals[cell_id], cells[cell_id]))
    return bool(bad)


def mark_as_read(name, cell_id):
    ((path, english, twin),) = existing([name])
    originals, cells = ({c.id: c for c in book.cells} for book in (english, twin))
    if cell_id not in cells or cell_id not in originals:
        raise TranslationError(f"{name} has no cell {cell_id}")
    if not hash_of(originals[cell_id]):
        raise TranslationError(f"nothing is translated in {cell_id} of {name}")
    cells[cell_id].metadata["translates"] = hash_of(originals[cell_id])
    write(twin, twin_of(path))
    print(f"zh/{name_of(path)}.ipynb: {cell_id} was read again")


def export(name, stale):
    """Print the English texts of a notebook, each with its Chinese below, if there is one."""
    ((path, english, twin),) = existing([name])
    cells = {cell.id: cell for cell in twin.cells}
    for original in english.cells:
        wanted, cell = hash_of(original), cells.get(original.id)
        if not wanted or cell is None:
            continue
        has = cell.metadata.get("translates", "")
        if stale and has == wanted:
            continue
        kind = original.cell_type
        print(f"=== {name_of(path)} · {original.id} · {kind} · {wanted} ===")
        print(original.source)
        print(CHINESE)
        if has:
            print("\n".join(chinese_comments(original, cell)) if kind == "code" else cell.source)
        print()


def chinese_comments(original, cell):
    """Of a twin's code cell the comments that stand where the English ones with words stand."""
    pairs = zip(comments(original.source), comments(cell.source))
    return [ours for (_, _, text), (_, _, ours) in pairs if re.search("[A-Za-z]{2}", text)]


def texts_of(text):
    """[(notebook, cell id, hash, Chinese)] of a file as `export` writes it."""
    for line in text.split("\n"):
        if line.startswith("===") and not HEADER.fullmatch(line):
            raise TranslationError(f"this line is no header as `export` writes it: {line}")
    parts = HEADER.split(text)
    if len(parts) == 1:
        raise TranslationError("there is no line such as === 01_theory · cell-00 · markdown · ...")
    found = []
    for name, cell_id, _, wanted, body in zip(*(parts[i::5] for i in range(1, 6))):
        found.append((name, cell_id, wanted, body.rpartition(CHINESE)[2].strip("\n")))
    return found


def put(original, cell, wanted, text):
    """Give a twin's cell its Chinese text; raise TranslationError for comments that do not fit."""
    if cell.cell_type == "markdown":
        if not re.search(f"[{chinese.HAN}]", text):
            raise TranslationError("there is no Chinese in it")
        cell.source = text
    else:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if not all(line.startswith("#") for line in lines):  # the whole code, with its comments
            lines = chinese_comments(original, nbformat.v4.new_code_cell(text))
        want = len(to_translate(original.source))
        if len(lines) != want:
            raise TranslationError(f"{want} comments are wanted, each with its #, not {len(lines)}")
        cell.source = with_comments(in_chinese(original.source), lines)
    cell.metadata["translates"] = wanted


def import_texts(file):
    """Put the texts of a file into the twins, and say what is wrong with them."""
    bad, twins = 0, {}
    try:
        given = Path(file).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError:
        raise TranslationError(f"{file} is not in UTF-8: save it in UTF-8") from None
    for name, cell_id, wanted, text in texts_of(given):
        if name not in twins:
            ((path, english, twin),) = existing([name])
            twins[name] = path, {c.id: c for c in english.cells}, twin, []
        path, originals, twin, done = twins[name]
        cells = {cell.id: cell for cell in twin.cells}
        if cell_id not in originals or cell_id not in cells:
            raise TranslationError(f"{name} has no cell {cell_id}: run `translation.py new`")
        if not text.strip():
            continue
        try:
            put(originals[cell_id], cells[cell_id], wanted, text)
        except TranslationError as error:
            print(f"  {cell_id}: NOT taken: {error}")
            bad += 1
            continue
        done.append(cell_id)
        found = problems(originals[cell_id], cells[cell_id])
        bad += len(found)
        found += chinese.missing_terms(translatable(originals[cell_id]), text_of(cells[cell_id]))
        for problem in found:
            print(f"  {cell_id}: {problem}")
    for name, (path, _, twin, done) in twins.items():
        write(twin, twin_of(path))
        left = sum(cell.metadata.get("translates") == "" for cell in twin.cells)
        print(f"zh/{name}.ipynb: {len(done)} texts put in, {left} cells are left")
    return bool(bad)


def outputs(names):
    for path, english, twin in existing(names):
        copy_outputs(english, twin)
        write(twin, twin_of(path))


def extracted():
    """The catalogue of all messages, untranslated: first arguments of `words`, `Wrong` and `right`
    in the package, and alternative texts of the lessons."""
    catalog = Catalog(
        locale="zh",
        header_comment="# The Chinese messages; `notebooks/translation.py messages` adds new ones.",
        project="nam_edu",
        version=" ",
        msgid_bugs_address=" ",
        last_translator=" ",
        language_team="zh",
        charset="utf-8",
        fuzzy=False,
    )
    said = {**dict.fromkeys(("words", "Wrong", "right")), "words_in": (2,)}
    for path in sorted(PACKAGE.rglob("*.py")):
        for calls, place in ((said, path), ({"counted": (2,)}, COUNTED)):
            with open(path, "rb") as file:
                found = list(extract("python", file, calls))
            for _, message, _, _ in found:
                catalog.add(message, locations=[(place.relative_to(PACKAGE.parent).as_posix(), 0)])
    for path in lessons():
        for message in messages_of_cells(read(path)):
            catalog.add(message, locations=[(path.relative_to(PACKAGE.parent).as_posix(), 0)])
    return catalog


def messages_of_cells(notebook):
    """What cells of a notebook hand on to be said: alternative texts with {gaps} to plots.show,
    nouns to lessons.counted."""
    for cell in notebook.cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if function == "lessons.counted" or function == "plots.show" and node.keywords:
                if isinstance(node.args[1], ast.Constant):
                    yield node.args[1].value


@functools.cache
def catalogue():
    """The translated catalogue, as its .po file says."""
    with open(CATALOGUE, "rb") as file:
        try:
            return read_po(file, locale="zh", domain="nam_edu", abort_invalid=True)
        except PoFileError as error:
            raise TranslationError(f"{CATALOGUE.name} is damaged: {error}") from None


def messages():
    """Bring the catalogue up to date: new messages in, stale ones out; and compile it."""
    old, new = catalogue(), extracted()
    new.creation_date, new.revision_date = old.creation_date, old.revision_date
    for message in new:
        if message.id and message.id in old:
            message.string = old[message.id].string
    po, mo = io.BytesIO(), io.BytesIO()
    write_po(po, new, width=0, include_lineno=False)
    write_mo(mo, new)
    write_whole(CATALOGUE, po.getvalue())
    write_whole(CATALOGUE.with_suffix(".mo"), mo.getvalue())
    missing = [message.id for message in new if message.id and not message.string]
    print(f"{len(new)} messages, {len(missing)} without a translation", *missing, sep="\n  ")
    return bool(missing)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("new", "status", "outputs"):
        commands.add_parser(command).add_argument("names", nargs="*")
    one = commands.add_parser("export")
    one.add_argument("name")
    one.add_argument("--stale", action="store_true", help="only what is not up to date")
    commands.add_parser("messages")
    commands.add_parser("import").add_argument("file")
    cell = commands.add_parser("read")
    cell.add_argument("name")
    cell.add_argument("cell_id")
    given = parser.parse_args(arguments)
    try:
        if given.command == "export":
            return export(given.name, given.stale)
        if given.command == "messages":
            return messages()
        if given.command == "import":
            return import_texts(given.file)
        if given.command == "read":
            return mark_as_read(given.name, given.cell_id)
        return {"new": new, "status": status, "outputs": outputs}[given.command](given.names)
    except (TranslationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
