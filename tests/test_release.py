"""What a release needs agrees: the number, the citation, the change log."""

import re
from pathlib import Path

from nam_edu import __version__

ROOT = Path(__file__).resolve().parent.parent


def test_the_number_is_the_same_everywhere():
    number = __version__.partition(".dev")[0]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"(?m)^version: (.*)$", citation)[1] == number
    heading = re.search(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[1]
    assert heading.startswith(__version__)
    # A date or a DOI only with a released number.
    assert ".dev" not in __version__ or not re.search(r"(?m)^(date-released|doi):", citation)
