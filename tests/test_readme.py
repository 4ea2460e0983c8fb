"""README.zh-CN.md says what README.md says: section by section the same code, tables, numbers,
names and links; and each of its sections was read since the English one last changed."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import chinese
import pytest
import translation

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}


def sections(page):
    """The text of each section of a page, the one before the first heading included."""
    text = PAGES[page].read_text(encoding="utf-8")
    outside_code = re.split(r"(?m)^(?=## )", text)
    return [part.strip() for part in outside_code]


def without_comments(text):
    return re.sub(r"<!--.*?-->", "", text, flags=re.S)


def code(text):
    """The code of a section without what is said about it: comments, and the second column of the
    map of the house."""
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    bare = [re.split(r"\s{2,}|\s+# ", line)[0] for line in lines]
    return [line for line in bare if line and line.isascii()]


def in_the_other_language(target):
    """A link of the English page as the Chinese one has it."""
    if target == "notebooks/zh":
        return "notebooks"
    if target == "README.zh-CN.md":
        return "README.md"
    if target in ("TEACHING.md", "QUESTIONS.md"):
        return target.replace(".md", ".zh-CN.md")
    return re.sub(r"^notebooks/(?=0|solutions)", "notebooks/zh/", target)


def facts(text):
    """What both pages share of a section: {kind: Counter}."""
    text = re.sub(r"(?ms)^```.*?^```", "", without_comments(text))
    names = Counter(chinese.CODE.findall(text))
    text = chinese.CODE.sub(" ", text)
    links = Counter(re.findall(r"\]\(([^)\s]+)\)", text))
    text = chinese.LINK.sub(" ", text)
    rows = Counter(re.findall(r"(?m)^\|", text))
    return {
        "names": names,
        "links": links,
        "numbers": Counter(translation.NUMBER.findall(text)),
        "rows": rows,
        "pictures": Counter(re.findall(r"!\[", text)),
    }


def test_the_sections_are_the_same():
    assert len(sections("en")) == len(sections("zh")) > 9


@pytest.mark.parametrize("n", range(len(sections("en"))))
class TestSection:
    def test_says_the_same(self, n):
        english, ours = sections("en")[n], sections("zh")[n]
        theirs, mine = facts(english), facts(ours)
        theirs["links"] = Counter(map(in_the_other_language, theirs["links"].elements()))
        for kind in theirs:
            assert mine[kind] == theirs[kind], (
                kind,
                mine[kind] - theirs[kind],
                theirs[kind] - mine[kind],
            )

    def test_has_the_same_commands(self, n):
        english, ours = sections("en")[n], sections("zh")[n]
        if n == HOUSE:  # its lines go on in one column or two
            english, ours = (
                english.replace("what they give; whole files; a line that counts", ""),
                ours,
            )
        assert code(ours) == code(english)

    def test_reads_well(self, n):
        text = without_comments(sections("zh")[n])
        text = re.sub(
            r"(?ms)^```.*?^```|^\|.*?$|^- Part.*?$|^- The rates.*?$|^- Not made.*?$", "", text
        )
        assert chinese.complaints(text) == []

    def test_was_read_since_the_english_changed(self, n):
        """`<!-- translates: HASH -->` in a Chinese section is the hash of the English one, in which
        what a program writes does not count."""
        wanted = hash_of(sections("en")[n])
        found = re.search(r"<!-- translates: (\w+) -->", sections("zh")[n])
        heading = sections("en")[n].split("\n")[0]
        assert found and found.group(1) == wanted, (
            f"README.md, {heading}: the English has changed; read README.zh-CN.md again, then "
            f"write <!-- translates: {wanted} --> there"
        )


HOUSE = next(i for i, text in enumerate(sections("en")) if "<!-- floors -->" in text)


def hash_of(text):
    text = re.sub(r"(<!-- (?:=|table: ).*?-->).*?(<!-- (?:end )?-->)", r"\1\2", text, flags=re.S)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_what_a_program_writes_does_not_make_a_section_stale():
    assert hash_of("a <!-- =x -->1<!-- --> b") == hash_of("a <!-- =x -->2<!-- --> b")
    assert hash_of("<!-- table: t -->\n1\n<!-- end -->") == hash_of(
        "<!-- table: t -->\n<!-- end -->"
    )
    assert hash_of("a <!-- =x -->1<!-- --> b") != hash_of("a <!-- =x -->1<!-- --> c")
