"""The PDFs, where `build.py --pdf` has printed them."""

import re

import pytest
import sources
from pypdf import PdfReader

A4 = (595, 842)  # points
PRINTED = [(language, name) for language in sources.LANGUAGES for name in sources.lessons()]


@pytest.fixture
def folder(site):
    if not (site / "en" / "pdf").is_dir():
        pytest.skip("printed by python site/build.py --pdf")
    return site


@pytest.mark.parametrize("language, name", PRINTED)
def test_a_sheet_is_one_page_of_a4(folder, language, name):
    reader = PdfReader(folder / language / "pdf" / f"sheet-{name}.pdf")
    assert len(reader.pages) == 1
    assert tuple(round(float(side)) for side in reader.pages[0].mediabox[2:]) == A4
    text = re.sub(r"\s", "", reader.pages[0].extract_text())
    assert re.search(r"1\..+2\..+3\.", text)
    if language == "zh":  # its characters come out as themselves, or as radicals that look alike
        assert len(re.findall(r"[\u2e80-\u2fdf\u4e00-\u9fff]", text)) > 150
    else:
        for question in sources.sheet(name)["en"]["questions"]:
            assert re.sub(r"[\s*`]", "", question) in text


@pytest.mark.parametrize("language, name", PRINTED)
def test_a_lesson_is_printed_whole_and_unfolded(folder, language, name):
    reader = PdfReader(folder / language / "pdf" / f"{name}.pdf")
    assert len(reader.pages) > 8
    if (language, name) == PRINTED[0]:  # reading a whole lesson takes seconds
        text = "".join(page.extract_text() for page in reader.pages)
        assert "You wrote no guess" in text  # folded on the screen
