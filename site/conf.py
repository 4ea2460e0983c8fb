"""Sphinx's settings for one edition of the site; `build.py` calls Sphinx for both."""

import inspect
import os
import re
import sys
from pathlib import Path

from sphinxcontrib import katex

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

edition = os.environ["SITE_EDITION"]  # en or zh
english_pages = set(os.environ.get("SITE_ENGLISH", "").split())
version = release = re.search(
    r'__version__ = "(.+?)"', (ROOT / "nam_edu" / "__init__.py").read_text(encoding="utf-8")
).group(1)

project = "nam-edu"
author = copyright = "the nam-edu maintainers, Apache License 2.0"
language = {"en": "en", "zh": "zh_CN"}[edition]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinxcontrib.katex"]
templates_path = ["templates"]
default_role = "code"
smartquotes = False
highlight_language = "none"

# Notebooks are shown as they were committed.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # else pages ask other hosts for scripts
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # tables of results skip a rank of headings

# Formulas are drawn while the site is built, by KaTeX in node.
katex.NODEJS_BINARY = os.environ["SITE_NODE"]
katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60
katex.KATEX_DEFAULT_OPTIONS = {"throwOnError": True, "strict": "ignore"}
katex_prerender = True
katex_css_path = "katex/katex.min.css"

# The API is read without Paddle.
autodoc_mock_imports = ["paddle", "matplotlib", "tqdm", "visualdl"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
add_module_names = False

html_theme = "furo"
html_title = {"en": "nam-edu: attention from a batch norm", "zh": "nam-edu：来自批归一化的注意力"}[
    edition
]
html_static_path = ["static", os.environ["SITE_NPM"]]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_js_files = ["site.js", "play.js"]
html_copy_source = html_show_sourcelink = html_use_index = False
html_domain_indices = False
html_show_sphinx = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        *(["sidebar/search.html"] if edition == "en" else []),
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#005a9c", "color-brand-content": "#005a9c"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ff", "color-brand-content": "#7cc4ff"},
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


def plain_docstring(app, what, name, object_, options, lines):
    """Docstrings are plain text: |gamma| and *best* mean what they show, and a paragraph with
    indented lines is shown as it is written."""
    shown = []
    for paragraph in "\n".join(lines).strip().split("\n\n"):
        rows = paragraph.split("\n")
        if any(row.startswith(" ") for row in rows):
            shown += ["::", "", *("   " + row for row in rows), ""]
        else:
            pieces = re.split(r"(`[^`]+`)", " ".join(rows))
            pieces[::2] = [re.sub(r"([\\|*_`])", r"\\\1", piece) for piece in pieces[::2]]
            shown += ["\\ " + "".join(pieces), ""]
    lines[:] = shown


def own_signature(app, what, name, object_, options, signature, returns):
    """A class takes what its __init__ takes; without Paddle, its layers would hide that."""
    if what != "class" or "__init__" not in vars(object_):
        return None
    found = inspect.signature(object_.__init__)
    arguments = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=arguments[1:], return_annotation=found.empty)), None


def page_context(app, page, template, context, doctree):
    """What templates/ asks for: where this page's twin is, and which language it is in."""
    other = {"en": "zh", "zh": "en"}[edition]
    twin = page if page in app.env.found_docs else "index"
    up = "../" * (page.count("/") + 1)
    context["twin"] = f"{up}{other}/{twin}.html"
    context["twin_language"] = {"en": "en", "zh": "zh-CN"}[other]
    context["twin_word"] = {"en": "English", "zh": "中文"}[other]
    context["language"] = "en" if edition == "en" or page in english_pages else "zh-CN"


def accessible(app, page, template, context, doctree):
    """Mend what screen readers stumble over in the HTML of the theme and of myst-nb."""
    headings, folds = 'role="heading"', '<summary aria-label="Toggle hidden content">'
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace(headings, headings + ' aria-level="2"')
    context["body"] = context.get("body", "").replace(folds, "<summary>")


def search_in_english_only(app):
    """Sphinx's search finds little in Chinese: that edition has no page for it."""
    app.builder.search = edition == "en"


def setup(app):
    app.connect("builder-inited", search_in_english_only)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-process-docstring", plain_docstring, priority=0)
    app.connect("html-page-context", page_context)
    app.connect("html-page-context", accessible, priority=900)  # after the theme's own
