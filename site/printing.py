"""Print lessons and sheets of a built site to PDFs, with the Chromium that is installed."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

from playwright.sync_api import sync_playwright
from sources import LANGUAGES, lessons

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ["--disable-quic", "--disable-background-networking", "--disable-component-update"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def browser_path():
    """The path of an installed Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser():
    """A headless Chromium, as playwright's Browser."""
    path = browser_path()
    if path is None:
        sys.exit("there is no Chromium to print with: on Debian, apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield started
        started.close()


@contextmanager
def served(folder):
    """The address of a server on this machine that shows a folder."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def chinese_font():
    """Whether a font with Chinese characters is installed, as far as fontconfig can say."""
    try:
        found = subprocess.run(["fc-list", ":lang=zh"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return True  # no fontconfig (macOS, Windows): their systems have such fonts
    return bool(found.stdout.strip())


def print_all(site):
    """Write en/pdf/ and zh/pdf/ below a built site: NAME.pdf, sheet-NAME.pdf for every lesson."""
    if not chinese_font():
        sys.exit(
            "there is no font with Chinese characters to print with: on Debian, "
            "apt-get install fonts-noto-cjk"
        )
    with browser() as started, served(site) as address:
        page = started.new_page(color_scheme="light")
        for language in LANGUAGES:
            folder = site / language / "pdf"
            folder.mkdir(exist_ok=True)
            for name in lessons():
                for inside, pdf in (
                    (f"notebooks/{name}", folder / f"{name}.pdf"),
                    (f"sheets/{name}", folder / f"sheet-{name}.pdf"),
                ):
                    if not (site / language / f"{inside}.html").is_file():
                        continue
                    page.goto(f"{address}/{language}/{inside}.html", wait_until="load")
                    page.evaluate("document.fonts.ready")
                    page.pdf(
                        path=pdf,
                        prefer_css_page_size=True,
                        print_background=True,
                        tagged=True,
                        outline=True,
                        display_header_footer=not inside.startswith("sheets/"),
                        header_template="<span></span>",
                        footer_template=(
                            '<div style="font: 8px sans-serif; width: 100%; text-align: center">'
                            '<span class="pageNumber"></span> / <span class="totalPages"></span>'
                            "</div>"
                        ),
                    )
