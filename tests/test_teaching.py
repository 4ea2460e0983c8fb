"""The teacher's page: its example is the table of the tests' class, and both languages agree."""

import csv
import re
from pathlib import Path

import pytest

from nam_edu.__main__ import parser
from nam_edu.exercises import CHECKERS
from nam_edu.machinery.grading import OUTCOMES, _line

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "TEACHING.md", ROOT / "TEACHING.zh-CN.md"]


def quizzes(page):
    """[(questions, answers)] of the lessons."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(
        r"(?m)^### .*?\n\n(.*?)\n\n<details><summary>.*?</summary>\n\n(.*?)\n\n</details>",
        text,
        re.S,
    )
    return [(re.findall(r"(?m)^\d\. ", a), re.findall(r"(?m)^\d\. ", b)) for a, b in found]


def printed():
    """What `grade` prints of the class, from its committed table."""
    table = (ROOT / "tests" / "golden" / "class.csv").read_text(encoding="utf-8-sig")
    for row in csv.DictReader(table.splitlines()):
        given = [row[f"exercise {i}"] for i in range(1, 6)]
        outcomes = {f"{row['lesson']}.{i + 1}": what for i, what in enumerate(given) if what}
        yield _line(row["notebook"], row["lesson"], outcomes, [row["remarks"]])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_quiz_for_each_lesson_with_as_many_answers(page):
    found = quizzes(page)
    assert len(found) == 7
    for questions, answers in found:
        assert questions == answers and len(questions) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_example_is_what_the_class_gives(page):
    text = page.read_text(encoding="utf-8")
    assert f"```text\n{chr(10).join(printed())}\n```" in text
    for outcome in OUTCOMES:
        assert outcome in text
    command = re.search(r"python -m nam_edu (grade .*)", text)[1]
    assert parser().parse_args(command.split()).csv == "grades.csv"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_afternoon_adds_up(page):
    plan = page.read_text(encoding="utf-8").split("\n## ")[3]
    assert sum(map(int, re.findall(r"(?m)^\| (\d+) \|", plan))) == 4 * 60


def test_both_languages_have_the_same_commands_and_sections():
    english, chinese = (page.read_text(encoding="utf-8") for page in PAGES)
    for what in (r"`[^`\n]+`", r"\d\.\d+", r"\]\((?!TEACHING)[^)]+\)"):
        assert sorted(re.findall(what, english)) == sorted(re.findall(what, chinese)), what
    assert set(re.findall(r"exercise[s]? (\d\.\d)", english)) <= set(CHECKERS)
