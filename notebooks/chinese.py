"""Checks of the Chinese text of the lessons: words of the glossary, punctuation, spaces, markdown.

For maintainers; `translation.py` and the tests call it. AutoCorrect, a linter for Chinese text,
checks punctuation and spaces; what it does not know (formulas, code, ½, Greek letters, bold text
that would not show as bold, broken lines) is checked here.
"""

import re
from functools import cache
from pathlib import Path

import autocorrect_py
from markdown_it import MarkdownIt

GLOSSARY = Path(__file__).resolve().parent / "zh" / "GLOSSARY.md"
HAN = "\u3400-\u4dbf\u4e00-\u9fff"
FULL = "，。：；？！、（）“”‘’《》…"  # full-width punctuation
CODE = re.compile(r"```.*?```|``.+?``|`[^`\n]+`", re.S)
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.S)
LINK = re.compile(r"(?<=\])\([^)\s]+\)|https?://[^\s)>，。）]+|<[^>]+>")
RULES = [  # (what must not be there, what to do)
    (rf"[{HAN}][`$½¼¾\u0370-\u03ff]|[`$½¼¾\u0370-\u03ff][{HAN}]", "put a space between"),
    (rf"[{HAN}][,;?!]|[,;?!][{HAN}]|[{HAN}]\.(?!\w)", "use full-width punctuation"),
    (rf"[{HAN}]: |[{HAN}]:$", "use full-width punctuation"),
    (rf"\([{HAN}]|[{HAN}]\)|\([^()]*[{HAN}][^()]*\)", "use full-width brackets （）"),
    (rf"\"[^\"\n]*[{HAN}][^\"\n]*\"", "use “ ”"),
    (rf"(?<![-*.|>#]) [{FULL}]|[{FULL}] (?![-|])(?=\S)", "no space beside full-width punctuation"),
    ("您|咱们|小伙伴", "write 你 or 我们"),
    (rf"[{HAN}{FULL}]\n(?=[{HAN}“（])", "write a paragraph in one line: a break shows as a space"),
]


@cache
def glossary():
    """[(English terms, Chinese terms, what is not used, note)]: lists of words, and a text."""
    rows = []
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        cells = [c.replace("\\|", "|").strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0] != "English" and set(cells[0]) != {"-"}:
            english, chinese, never = (
                [w.strip() for w in re.split("[,、]", c) if w.strip()] for c in cells[:3]
            )
            rows.append((english, chinese, never, cells[3]))
    return rows


def plain(text):
    """Text in which code, formulas and links are masked, one ~ for what was taken out."""
    for pattern in (CODE, FORMULA, LINK):
        text = pattern.sub(lambda m: m[0][0] + "~" * (len(m[0]) - 2) + m[0][-1], text)
    return text


def complaints(text, markdown=True):
    """What is wrong with a Chinese text (markdown, or comments of code), as a list of sentences."""
    found = []
    masked = plain(text)
    for _, right, never, _ in glossary():
        found += [f"the glossary has {right[0]}, not {w}" for w in never if w in masked]
    for pattern, advice in RULES:
        for match in re.finditer(pattern, masked, re.M):
            start, end = max(0, match.start() - 8), match.end() + 8
            found.append(f"{advice}: …{text[start:end]}…".replace("\n", "⏎"))
    kind = "markdown" if markdown else "text"
    for line in autocorrect_py.lint_for(masked, kind).lines:
        found.append(f"AutoCorrect would write {line.new!r}, not {line.old!r}")
    if markdown:
        html = MarkdownIt().enable("table").render(FORMULA.sub("x", CODE.sub("x", text)))
        shown = re.sub("<[^>]+>", "", html)
        for match in re.finditer(r".{0,8}\*+.{0,8}", shown):
            found.append(f"these stars show as stars; put a space beside them: {match[0]!r}")
    return found


def missing_terms(english, chinese):
    """Terms of the glossary that an English text has, and whose Chinese words its twin lacks."""
    english, lost = plain(english).lower(), []
    rows = [(t, words) for terms, words, _, _ in glossary() for t in terms]
    alone = [  # of more than one word, or in everyday use, it may be said in another way
        terms[0]
        for terms, words, _, note in glossary()
        if len(terms) == 1 == len(words) and "日常词" not in note
    ]
    for term, words in sorted(rows, key=lambda row: -len(row[0])):
        pattern = rf"\b{re.escape(term.lower())}s?\b"
        if (
            term in alone
            and re.search(pattern, english)
            and words[0].lower() not in chinese.lower()
        ):
            lost.append(f"{term} is {words[0]} in the glossary")
        english = re.sub(pattern, " ", english)  # "batch norm" is no "batch"
    return lost
