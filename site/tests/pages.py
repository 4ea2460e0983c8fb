"""HTML as the tests read it, and what in a page would ask another host for something."""

import functools
import re
from html.parser import HTMLParser
from pathlib import Path

# Attributes whose value a browser fetches by itself.
FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("source", "src"),
    ("source", "srcset"),
    ("iframe", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("video", "src"),
    ("video", "poster"),
    ("audio", "src"),
    ("track", "src"),
    ("input", "src"),
    ("use", "href"),
    ("use", "xlink:href"),
    ("image", "href"),
    ("image", "xlink:href"),
    ("form", "action"),
    ("button", "formaction"),
    ("body", "background"),
    ("base", "href"),
}
POINTERS = {
    "alternate",
    "author",
    "canonical",
    "help",
    "license",
    "next",
    "prev",
    "search",
    "index",
}
ELSEWHERE = re.compile(r"(?:https?:|wss?:|ftp:)?//[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)
NAMES_ONLY = re.compile(r"https?://www\.w3\.org/(?:1998|1999|2000)/[\w/]+", re.IGNORECASE)


def elsewhere(text):
    """Addresses of other hosts in a text; namespaces of XML are names, and not fetched."""
    return ELSEWHERE.findall(NAMES_ONLY.sub("", text))


def in_css(text):
    """Addresses of other hosts that a style fetches: url(...), @import."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    loaded = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", text)
    return [found for pair in loaded for found in elsewhere(pair[0] or pair[1])]


def in_js(text):
    """Addresses of other hosts in a script, but for comments and links that it writes."""
    text = re.sub(r"<a [^>]*>", "", text)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"(?m)^\s*//.*$", "", text)
    return elsewhere(text)


class Page(HTMLParser):
    """One page: ids, links, images with their alternative texts, what it fetches."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images, self.fetched = set(), [], [], []
        self.html, self.twins, self.scripts = {}, [], []
        self._inside = None
        self._folds = self.folded = 0
        self.code_in_folds, self.code = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        value = {name: text or "" for name, text in attributes}
        self.ids |= {value[name] for name in ("id", "name") if name in value}
        if tag == "html":
            self.html = value
        if tag == "a" and "href" in value:
            self.links.append(value["href"])
            if "hreflang" in value:
                self.twins.append((value["hreflang"], value["href"]))
        if tag == "img":
            self.images.append(given)
            self.links.append(value.get("src", ""))
        if tag == "details":
            self._folds += 1
            self.folded += 1
            if "open" in value:
                self.folded -= 1
        if tag in ("script", "style"):
            self._inside = tag
        for name, text in value.items():
            if (tag, name) in FETCHED or name == "style" or name.startswith("on"):
                self._seen(elsewhere(text))
        if tag == "link" and not POINTERS & set(value.get("rel", "").split()):
            self._seen(elsewhere(value.get("href", "")))
            if not value.get("href", "").startswith("data:"):
                self.links.append(value.get("href", ""))
        if tag == "script" and "src" in value:
            self.links.append(value["src"])
        if tag == "meta" and value.get("http-equiv", "").lower() == "refresh":
            self._seen(elsewhere(value.get("content", "")))
        if tag == "pre":
            (self.code_in_folds if self._folds else self.code).append("")
            self._inside = "folded pre" if self._folds else "pre"

    def handle_endtag(self, tag):
        if tag == "details":
            self._folds -= 1
        if tag in ("script", "style", "pre"):
            self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self._seen(in_js(data))
        elif self._inside == "style":
            self._seen(in_css(data))
        elif self._inside == "pre":
            self.code[-1] += data
        elif self._inside == "folded pre":
            self.code_in_folds[-1] += data

    def _seen(self, found):
        self.fetched += found


@functools.cache
def page(path: Path):
    return Page(path.read_text(encoding="utf-8"))
