"""QUESTIONS.md: every snippet runs and prints what stands below it; both languages say the same."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "QUESTIONS.md", ROOT / "QUESTIONS.zh-CN.md"]
SNIPPET = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)


def answers(page):
    """The text of every question, in order, with its heading."""
    return re.split(r"(?m)^## (?=\d)", page.read_text(encoding="utf-8"))[1:]


@pytest.mark.parametrize("number", range(1, 13))
def test_a_snippet_prints_what_stands_below_it(number, capsys):
    ((code, printed),) = SNIPPET.findall(answers(PAGES[0])[number - 1])
    exec(compile(code, f"question {number}", "exec"), {"__name__": "snippet"})
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_answer_has_a_snippet_and_a_lesson(page):
    found = answers(page)
    assert [text.split(".")[0] for text in found] == [str(n) for n in range(1, len(found) + 1)]
    assert len(found) == 12
    for text in found:
        assert text.count("```python") == text.count("```text") == 1 and len(SNIPPET.findall(text))
        assert re.search(r"\]\(notebooks/(zh/)?0\d_\w+\.ipynb\)", text), text[:60]


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("TEACHING*.md")], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    headings = [
        re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"(?m)^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S))
    ]
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_both_languages_have_the_same_snippets_and_numbers():
    english, chinese = map(answers, PAGES)
    for one, other in zip(english, chinese):
        assert SNIPPET.findall(one) == SNIPPET.findall(other)
        for what in (r"arXiv[ :]?[\d.]+", r"github\.com/\S+?(?=\))", r"\d+\.\d+", r"`[^`\n]+`"):
            assert sorted(set(re.findall(what, one))) == sorted(set(re.findall(what, other))), what
