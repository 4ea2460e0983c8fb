"""The built site, which these tests read: build/site, or the folder named by NAM_EDU_SITE."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def site():
    folder = Path(os.environ.get("NAM_EDU_SITE", ROOT / "build" / "site"))
    if not (folder / "index.html").is_file():
        pytest.fail(f"there is no site in {folder}: build it first, python site/build.py")
    return folder
