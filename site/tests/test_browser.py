"""The site in Chromium: no serious violation that axe-core finds, no request to another host, and
pictures that answer to keyboard and touch."""

import re

import pytest
from conftest import ROOT
from pages import page as read
from printing import browser, browser_path, served

AXE = ROOT / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
FIGURES = ("gate", "decay", "constant")
pytestmark = pytest.mark.skipif(browser_path() is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def address(site):
    with served(site) as address:
        yield address


def pages(site):
    """All pages, but for those that stand in English in the Chinese edition: they are looked at in
    the English one."""
    shown = [
        path
        for path in sorted(site.rglob("*.html"))
        if path.is_relative_to(site / "en")
        or read(path).html["lang"] != "en"
        or path.parent == site
    ]
    return [path.relative_to(site).as_posix() for path in shown]


def violations(page, rules=None):
    """What axe-core calls serious or critical: ["rule: element", ...]; by all rules or by some."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    return page.evaluate(
        """async (rules) => {
             const options = {resultTypes: ["violations"], ...(rules && {runOnly: rules})};
             return (await axe.run(document, options)).violations
               .filter((v) => ["serious", "critical"].includes(v.impact))
               .flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.target} ${n.html.slice(0, 150)}`));
           }""",
        rules,
    )


@pytest.mark.parametrize(
    "scheme, width, rules",
    [("light", 1300, None), ("dark", 390, ["color-contrast", "scrollable-region-focusable"])],
)
def test_no_serious_violation_and_no_request_elsewhere(
    chromium, site, address, scheme, width, rules
):
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    asked, errors, found = set(), [], {}
    context.on("request", lambda request: asked.add(re.sub(r"(\w+://[^/]+).*", r"\1", request.url)))
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("response", lambda r: errors.append(r.url) if r.status >= 400 else None)
    for name in pages(site):
        page.goto(f"{address}/{name}")
        if violated := violations(page, rules):
            found[name] = violated
        too_wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert too_wide <= 0, f"{name} scrolls sideways by {too_wide} pixels"
    context.close()
    assert not found and not errors
    assert {origin for origin in asked if not origin.startswith("data:")} == {address}


CUT_OFF = """() => [...document.querySelectorAll("article .katex-html, article pre, article table")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent.trim().slice(0, 60))"""


def test_nothing_is_cut_off_on_paper(chromium, site, address):
    """Lessons and sheets, 180 mm wide: what scrolls on the screen cannot scroll there."""
    page = chromium.new_page(viewport={"width": 680, "height": 1000})
    page.emulate_media(media="print")
    cut = {}
    for name in pages(site):
        if "/notebooks/" in name or "/sheets/" in name:
            page.goto(f"{address}/{name}")
            if found := page.evaluate(CUT_OFF):
                cut[name] = found
    page.close()
    assert cut == {}


def test_a_violation_is_seen(chromium):
    page = chromium.new_page()
    page.set_content(
        '<html lang="en"><title>t</title><main><h1>h</h1><img src="a.png"></main></html>'
    )
    assert any(found.startswith("image-alt") for found in violations(page))
    page.close()


@pytest.mark.parametrize("language", ["en", "zh"])
class TestPictures:
    def test_without_scripts_a_picture_remains(self, chromium, address, language):
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"{address}/{language}/play.html")
        for name in FIGURES:
            figure = page.locator(f'figure[data-picture="{name}"]')
            assert figure.locator("svg").bounding_box()["width"] > 300
            assert figure.locator("input").count() == 0
        context.close()

    def test_keyboard(self, chromium, address, language):
        page = chromium.new_page()
        page.goto(f"{address}/{language}/play.html")
        for name in FIGURES:
            figure = page.locator(f'figure[data-picture="{name}"]')
            for slider in figure.locator("input").all():
                before = figure.locator("svg").get_attribute("aria-label"), figure.inner_text()
                slider.focus()
                page.keyboard.press("ArrowRight")
                assert figure.inner_text() != before[1], name
            figure.locator("button").focus()
            page.keyboard.press("Enter")
            assert figure.locator("dd").all_inner_texts()
        page.close()

    def test_touch(self, chromium, address, language):
        context = chromium.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
        page = context.new_page()
        page.goto(f"{address}/{language}/play.html")
        for name in FIGURES:
            figure = page.locator(f'figure[data-picture="{name}"]')
            slider = figure.locator("input").first
            slider.scroll_into_view_if_needed()
            box, before = slider.bounding_box(), figure.locator("output").first.inner_text()
            page.touchscreen.tap(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
            assert figure.locator("output").first.inner_text() != before, name
        context.close()


def test_english_search_finds(chromium, address):
    page = chromium.new_page()
    page.goto(f"{address}/en/search.html?q=folding")
    page.locator("#search-results li a").first.wait_for()
    titles = page.locator("#search-results li a").all_inner_texts()
    assert any(title.startswith("2 · The layer") for title in titles), titles
    page.close()
