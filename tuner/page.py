"""A search as one page of HTML that needs no other file."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; }}
body {{ max-width: 60rem; }}
table {{ border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 0.2rem 0.6rem; text-align: right; }}
th {{ position: sticky; top: 0; background: #fff; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def make_page(
    title: str,
    facts: Mapping[str, str],
    figures: Mapping[str, bytes],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Returns the page.

    Args:
        title: Its title.
        facts: What was found, by name.
        figures: PNG files by their captions.
        tables: Rows by their titles; cells go by the names of their columns, which not every row
            must have.
    """
    parts = [_table([{"": name, " ": value} for name, value in facts.items()])]
    for caption, png in figures.items():
        data = base64.b64encode(png).decode()
        text = html.escape(caption)
        parts.append(f'<h2>{text}</h2>\n<img alt="{text}" src="data:image/png;base64,{data}">')
    for name, rows in tables.items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(_table(rows) if rows else "<p>None.</p>")
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = [f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>"]
    for row in rows:
        cells = "".join(f"<td>{html.escape(_text(row.get(name)))}</td>" for name in names)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</tbody>\n</table>"])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
