"""Tables in Markdown, for every page of results/."""

import re


def table(head, rows):
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in lines)


def insert(path, tables, values=None):
    """Put tables {name: text} and values {name: text} between their markers in a file; names
    without a marker are passed. ValueError for the marker of a value that is not given."""
    text = path.read_text(encoding="utf-8")
    for name, content in tables.items():
        pattern = rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.S)

    def filled(match):
        if match[1] not in values:
            raise ValueError(f"{path}: nothing is known of the value {match[1]!r}")
        return f"<!-- ={match[1]} -->{values[match[1]]}<!-- -->"

    if values is not None:
        text = re.sub(r"<!-- =([^>]+?) -->.*?<!-- -->", filled, text)
    path.write_text(text, encoding="utf-8")
