"""The built site: whole, in both languages, and asking no other host for anything."""

import html
import json
import re
from urllib.parse import unquote

import pytest
from conftest import ROOT
from pages import Page, in_css, in_js, page

LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
EDITIONS = {"en": "en", "zh": "zh-CN"}


def notebook(language, name, folder=""):
    """The notebook that a page was made from."""
    twin = ROOT / "notebooks" / "zh" / folder / f"{name}.ipynb"
    source = ROOT / "notebooks" / folder / f"{name}.ipynb"
    return json.loads((twin if language == "zh" and twin.is_file() else source).read_text("utf-8"))


class TestOffline:
    def test_pages_styles_and_scripts_fetch_nothing_from_elsewhere(self, site):
        found, read = {}, set()
        for path in sorted(site.rglob("*")):
            kind = path.suffix
            if kind == ".html":
                asked = page(path).fetched
            elif kind == ".css":
                asked = in_css(path.read_text(encoding="utf-8"))
            elif kind in (".js", ".mjs") and path.name != "searchindex.js":  # words of the pages
                asked = in_js(path.read_text(encoding="utf-8"))
            elif kind == ".svg":
                asked = Page(path.read_text(encoding="utf-8")).fetched
            else:
                continue
            read.add(kind)
            if asked:
                found[path.relative_to(site).as_posix()] = asked[:3]
        assert not found
        assert {".html", ".css", ".js"} <= read

    @pytest.mark.parametrize(
        "text",
        [
            '<script src="https://cdn.example.org/a.js"></script>',
            '<link rel="stylesheet" href="//fonts.example.org/a.css">',
            '<link rel="preconnect" href="https://fonts.example.org">',
            '<img srcset="a.png 1x, https://example.org/b.png 2x">',
            '<p style="background: url(https://example.org/a.png)">',
            '<style>@import "https://example.org/a.css";</style>',
            '<script>fetch("https://example.org/count")</script>',
            '<meta http-equiv="refresh" content="0; url=https://example.org/">',
            '<svg><use href="https://example.org/a.svg#b"></use></svg>',
            '<form action="https://example.org/find"></form>',
        ],
    )
    def test_a_request_to_another_host_is_seen(self, text):
        assert Page(text).fetched

    def test_a_link_to_follow_and_a_namespace_are_no_request(self):
        assert not Page('<a href="https://arxiv.org/abs/2111.12419">paper</a>').fetched
        assert not in_js('document.createElementNS("http://www.w3.org/2000/svg", "g")')
        assert in_js('import("https://example.org/a.js")') and in_css("a{b:url('//x.org/c')}")


class TestPages:
    def test_links_and_what_they_point_at_are_there(self, site):
        broken = []
        for path in sorted(site.rglob("*.html")):
            for link in page(path).links:
                if re.match(r"(https?|data|mailto):", link):
                    continue
                target, _, anchor = link.partition("#")
                file = (path.parent / unquote(target.partition("?")[0])).resolve()
                file = path if not target else file / "index.html" if file.is_dir() else file
                if not file.is_file():
                    broken.append(f"{path.relative_to(site)}: {link}")
                elif anchor and file.suffix == ".html" and unquote(anchor) not in page(file).ids:
                    broken.append(f"{path.relative_to(site)}: no {anchor} in {file.name}")
        assert not broken

    def test_every_page_leads_to_the_same_page_in_the_other_language(self, site):
        for language, other in (("en", "zh"), ("zh", "en")):
            paths = sorted((site / language).rglob("*.html"))
            assert len(paths) >= 2 * len(LESSONS) + 5
            for path in paths:
                inside = path.relative_to(site / language)
                twins = [
                    (path.parent / href).resolve()
                    for hreflang, href in page(path).twins
                    if hreflang == EDITIONS[other]
                ]
                wanted = [site.resolve() / other / inside]
                if inside.name == "search.html":
                    wanted = [site.resolve() / other / "index.html"]
                assert twins == wanted, inside

    def test_a_page_says_its_language(self, site):
        for language, code in EDITIONS.items():
            for name in LESSONS:
                twin = ROOT / "notebooks" / "zh" / f"{name}.ipynb"
                written = code if language == "en" or twin.is_file() else "en"
                path = site / language / "notebooks" / f"{name}.html"
                assert page(path).html["lang"] == written, path
            assert page(site / language / "index.html").html["lang"] == code

    def test_every_picture_says_what_is_seen(self, site):
        for path in sorted(site.rglob("*.html")):
            for picture in page(path).images:
                assert len(picture.get("alt") or "") >= 10, (path, picture.get("src", "")[:80])

    def test_results_begin_with_the_picture_of_intervals(self, site):
        for language in EDITIONS:
            first = page(site / language / "findings.html").images[0]
            assert re.search(r"attention\d*\.png$", first["src"]), first["src"]

    def test_the_taught_modules_are_described(self, site):
        text = (site / "en" / "api.html").read_text(encoding="utf-8")
        for name in ("attention.gamma_weights", "attention.ChannelNAM", "baselines.SE"):
            assert f'id="nam_edu.{name}"' in text, name


@pytest.mark.parametrize("language", EDITIONS)
@pytest.mark.parametrize("name", LESSONS)
class TestLesson:
    def test_shows_the_outputs_of_its_notebook(self, site, language, name):
        seen = page(site / language / "notebooks" / f"{name}.html")
        shown = {html.unescape(picture["alt"]) for picture in seen.images}
        for cell in notebook(language, name)["cells"]:
            for output in cell.get("outputs", []):
                drawn = "".join(output.get("data", {}).get("text/html", ""))
                for alt in re.findall(r'<img [^>]*alt="([^"]*)"', drawn):
                    assert html.unescape(alt) in shown, alt

    def test_answers_are_folded(self, site, language, name):
        seen = page(site / language / "notebooks" / f"{name}.html")
        cells = notebook(language, name)["cells"]
        folds = sum("".join(cell["source"]).count("<details>") for cell in cells)
        hidden = [cell for cell in cells if "hide-output" in cell["metadata"].get("tags", ())]
        assert seen.folded == folds + len(hidden) > 0
        for cell in hidden:
            printed = ["".join(output["text"]) for output in cell["outputs"] if "text" in output]
            for text in printed:
                assert any(text.strip() == code.strip() for code in seen.code_in_folds), text

    def test_solutions_are_folded(self, site, language, name):
        seen = page(site / language / "notebooks" / "solutions" / f"{name}.html")
        count = 0
        for cell in notebook(language, name, "solutions")["cells"]:
            if any(tag.startswith("solution-") for tag in cell["metadata"].get("tags", ())):
                source = "".join(cell["source"]).strip()
                assert any(source == code.strip() for code in seen.code_in_folds)
                assert not any(source == code.strip() for code in seen.code)
                count += 1
        assert count == 5

    def test_formulas_are_drawn(self, site, language, name):
        text = (site / language / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        written = [
            cell["source"]
            for cell in notebook(language, name)["cells"]
            if cell["cell_type"] == "markdown"
        ]
        displayed = sum("".join(source).count("$$") for source in written) // 2
        assert text.count('class="katex-display"') == displayed
        assert "katex-error" not in text and "$$" not in text
