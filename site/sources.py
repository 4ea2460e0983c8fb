"""The pages of the site in both languages, made from the repository's own texts.

Each page has one name in both editions, which is its place in the repository, so that links between
texts stay as they are: notebooks/01_theory is the English lesson in the one edition and its Chinese
twin, notebooks/zh/01_theory.ipynb, in the other. Where there is no Chinese text, the English one
stands in its place, and says so.
"""

import base64
import html
import os
import re
import shutil
import tomllib
from pathlib import Path

import jinja2
import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LANGUAGES = ("en", "zh")
WORDS = {
    "en": {
        "show outputs": "Show the output",
        "hide outputs": "Hide the output",
        "show solution": "Show the solution",
        "hide solution": "Hide the solution",
        "idea": "The idea",
        "formula": "The formula",
        "picture": "The picture",
        "questions": "Three questions",
        "questions for": "The lesson answers them: ",
    },
    "zh": {
        "show outputs": "显示输出",
        "hide outputs": "收起输出",
        "show solution": "显示题解",
        "hide solution": "收起题解",
        "idea": "思想",
        "formula": "公式",
        "picture": "图",
        "questions": "三个问题",
        "questions for": "答案都在这一课里：",
    },
}
NOT_TRANSLATED = "```{note}\n这一页还没有中文，下面是英文原文。\n```"
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?:|#)([^()\s]+)\)")


class SourceError(Exception):
    """A text of the repository is not as the site needs it; says which and what to do."""


def lessons():
    """The names of the lessons, in order: ["01_theory", ...]."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def twin(path):
    """The path of the Chinese text of a file of the repository, which need not be there."""
    if path.suffix == ".ipynb":
        return ROOT / "notebooks" / "zh" / path.relative_to(ROOT / "notebooks")
    return path.with_name(path.stem + ".zh-CN" + path.suffix)


def documents():
    """{page: its English source} of all pages that are files of the repository already."""
    names = lessons()
    files = [ROOT / "notebooks" / f"{name}.ipynb" for name in names]
    files += [ROOT / "notebooks" / "solutions" / f"{name}.ipynb" for name in names]
    files += sorted((ROOT / "results").glob("*.md"))
    files += sorted((ROOT / "nam_edu" / "weights").glob("*/README.md"))
    files += [ROOT / name for name in ("QUESTIONS.md", "TEACHING.md")]
    return {
        path.relative_to(ROOT).with_suffix("").as_posix(): path for path in files if path.is_file()
    }


def section(text, heading, of):
    """The text below a heading "## ...", up to the next of its rank."""
    parts = re.split(rf"(?m)^## {re.escape(heading)}\n", text)
    if len(parts) != 2:
        raise SourceError(
            f'{of}: there is no one section "## {heading}", which a page of the site '
            "shows; name the new heading in site/pages/"
        )
    return re.split(r"(?m)^## ", parts[1])[0].strip()


def lessons_heading(text, of):
    """The heading of README's table of lessons, in the language of the page."""
    found = re.search(r"(?m)^## (The lessons|课程)$", text)
    if not found:
        raise SourceError(f'{of}: no heading "## The lessons" or "## 课程"')
    return found.group(1)


class Edition:
    """The sources of one edition, written to a folder that Sphinx reads."""

    def __init__(self, language, folder, drawings, pdf=False):
        """drawings: the folder with the pictures to play with; pdf: whether there will be PDFs."""
        self.language, self.folder, self.pdf = language, Path(folder), pdf
        self.drawings = drawings
        self.words = WORDS[language]
        self.documents = documents()
        self.own = sorted(path.stem for path in (HERE / "pages" / language).glob("*.md"))
        self.sheets = {name: sheet(name) for name in lessons()}
        self.english = []  # pages that stand here in English, since there is no Chinese text

    def write(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, source in self.documents.items():
            chinese = twin(source)
            translated = self.language == "en" or chinese.is_file()
            if not translated:
                self.english.append(name)
            text = chinese if self.language == "zh" and translated else source
            if source.suffix == ".ipynb":
                self._put(f"{name}.ipynb", self._notebook(text, translated))
            else:
                page = text.read_text(encoding="utf-8")
                if not page.startswith("# "):
                    page = f"# {source.stem}\n\n{page}"
                self._put(f"{name}.md", self._page(page, text, translated))
        for name in self.lessons_with_sheets():
            self._sheet(name)
        for name in self.own:
            source = HERE / "pages" / self.language / f"{name}.md"
            self._put(f"{name}.md", self._page(self._filled(source), ROOT / "README.md", True))
        for picture in (*(ROOT / "notebooks/images").iterdir(), *(ROOT / "results").glob("*.png")):
            target = self.folder / picture.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)

    def _put(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    # ------------------------------------------------------------------------------------- text

    def _filled(self, source):
        """A page of site/pages/, whose {{ ... }} are filled in."""
        readme = ROOT / ("README.md" if self.language == "en" else "README.zh-CN.md")
        text = readme.read_text(encoding="utf-8")
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, comment_start_string="{##", comment_end_string="##}"
        )
        environment.filters["without_first_picture"] = lambda text: re.sub(
            r"(?m)^!\[.*\n", "", text, count=1
        )
        return environment.from_string(source.read_text(encoding="utf-8")).render(
            section=lambda heading: section(text, heading, readme.name),
            lessons_heading=lessons_heading(text, readme.name),
            lessons=lessons(),
            solutions=[name for name in self.documents if "/solutions/" in name],
            titles={name: self._title(name) for name in self.documents},
            results=sorted(name for name in self.documents if name.startswith("results/")),
            cards=sorted(name for name in self.documents if name.startswith("nam_edu/")),
            more=[name for name in self.documents if "/" not in name],
            sheets=self.lessons_with_sheets(),
            modules=taught(),
            pdf=self.pdf,
            figure=self._figure,
        )

    def _title(self, name):
        source = self.documents[name]
        chinese = twin(source)
        source = chinese if self.language == "zh" and chinese.is_file() else source
        if source.suffix == ".ipynb":
            text = nbformat.read(source, as_version=4).cells[0].source
        else:
            text = source.read_text(encoding="utf-8")
        found = re.match(r"# (.+)", text)
        return found.group(1).strip() if found else source.stem

    def _page(self, text, source, translated):
        text = self._linked(one_title(text), source)
        return text if translated else below_title(text, NOT_TRANSLATED)

    def _linked(self, text, source):
        """The text, its links leading to pages of this edition; one that leads to a file which the
        site does not show becomes the file's name."""

        def replaced(match):
            picture, words, target = match.groups()
            target, _, anchor = target.partition("#")
            if target.removesuffix(".md") in self.own:
                return match.group()  # from one page of site/pages/ to another
            path = Path(os.path.normpath(source.parent / target)) if target else source
            inside = path.relative_to(ROOT).as_posix().replace("notebooks/zh/", "notebooks/")
            if not path.exists() and not (ROOT / inside).exists():
                raise SourceError(f"{source}: links to {target}, which is not there")
            inside = re.sub(r"^(README|TEACHING|QUESTIONS)\.zh-CN\.md$", r"\1.md", inside)
            inside = "index.md" if inside == "README.md" else inside
            inside = re.sub(r"^results/?$", "findings.md", inside)
            name, kind = os.path.splitext(inside)
            page = kind in (".md", ".ipynb") and (name in self.documents or name in self.own)
            if picture or page:
                return f"{picture}[{words}](/{inside}{'#' + anchor if anchor else ''})"
            code = words if words.startswith("`") else f"`{inside}`"
            return code if words.strip("`") in (inside, Path(inside).name) else f"{words} ({code})"

        return LINK.sub(replaced, text)

    def _figure(self, name):
        """A picture to play with, as it is before any script runs."""
        drawing = self.drawings / f"{name}.{self.language}.svg"
        return (
            f'<figure class="play" data-picture="{name}">\n'
            f"<div>{drawing.read_text(encoding='utf-8')}</div>\n</figure>"
        )

    # -------------------------------------------------------------------------------- notebooks

    def _notebook(self, path, translated):
        """A notebook as the site shows it: folds have words, solutions are folded, one title."""
        notebook = nbformat.read(path, as_version=4)
        shift = 0
        for n, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                text, shift = demoted(cell.source, shift, first=n == 0)
                cell.source = self._linked(text, path)
                continue
            tags = cell.metadata.setdefault("tags", [])
            fold = "outputs"
            if any(tag.startswith("solution-") for tag in tags):
                tags.append("hide-cell")
                fold = "solution"
            cell.metadata["mystnb"] = {
                "code_prompt_show": self.words[f"show {fold}"],
                "code_prompt_hide": self.words[f"hide {fold}"],
            }
        if not translated:
            notebook.cells[0].source = below_title(notebook.cells[0].source, NOT_TRANSLATED)
        return nbformat.writes(notebook)

    # ----------------------------------------------------------------------------------- sheets

    def lessons_with_sheets(self):
        return [name for name, content in self.sheets.items() if content]

    def _sheet(self, name):
        """The page of one A4 sheet, and its picture: that of a cell of the lesson."""
        content = self.sheets[name]
        png, alt = picture_of(name, content["picture"], self.language)
        (self.folder / "sheets").mkdir(parents=True, exist_ok=True)
        (self.folder / "sheets" / f"{name}.png").write_bytes(png)
        said, words = content[self.language], self.words
        alt = " ".join(alt.split())
        questions = "\n".join(f"{n}. {text}" for n, text in enumerate(said["questions"], 1))
        self._put(
            f"sheets/{name}.md",
            f"# {said['title']}\n\n"
            f"## {words['idea']}\n\n{said['idea']}\n\n"
            f"## {words['formula']}\n\n$$\n{content['formula']}\n$$\n\n{said['formula']}\n\n"
            f"## {words['picture']}\n\n"
            f"```{{image}} {name}.png\n:alt: {alt}\n:class: sheet-picture\n```\n\n"
            f"{said['picture']}\n\n"
            f"## {words['questions']}\n\n{questions}\n\n"
            f"{words['questions for']}{{doc}}`/notebooks/{name}`\n",
        )


def one_title(text):
    """Markdown text with one heading of the first rank: later ones move down, and what is below
    them."""
    return demoted(text, 0, first=True)[0]


def demoted(text, shift, first):
    """(text, shift): headings moved down by `shift` ranks, which is 1 from the second heading of
    the first rank on. `first`: whether the first of them may stay."""
    lines, fence = [], None
    for line in text.split("\n"):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark:
            fence = None if fence else mark.group(1)
        elif fence is None and re.match(r"#{1,5} ", line):
            if line.startswith("# "):
                shift, first = (0 if first else 1), False
            line = "#" * shift + line
        lines.append(line)
    return "\n".join(lines), shift


def below_title(text, note):
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{note}\n\n{rest}"


def sheet(name):
    """The content of a lesson's sheet, site/sheets/NAME.toml; None where there is none."""
    path = HERE / "sheets" / f"{name}.toml"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return tomllib.load(file)


def picture_of(name, cell_id, language):
    """(PNG, alternative text) of the first picture that a cell of a lesson shows."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    if language == "zh" and twin(path).is_file():
        path = twin(path)
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.id == cell_id:
            for output in cell.outputs:
                found = re.search(
                    r'src="data:image/png;base64,([^"]+)" alt="([^"]*)"',
                    "".join(output.get("data", {}).get("text/html", "")),
                )
                if found:
                    return base64.b64decode(found.group(1)), html.unescape(found.group(2))
    raise SourceError(
        f"site/sheets/{name}.toml: its picture is to be that of the cell {cell_id!r}, "
        f"but no such cell of {path.name} shows one"
    )


def taught():
    """The modules that the lessons teach: those whose first line names a lesson."""
    return [
        path.stem
        for path in sorted((ROOT / "nam_edu").glob("*.py"))
        if re.match(r'"""(All l|L)essons?\b', path.read_text(encoding="utf-8"))
    ]
