"""Tables as self-contained HTML pages: no network, no script, everything escaped."""

from __future__ import annotations

from html import escape

from intaglio.report.display import Display
from intaglio.report.formatting import NOTHING

_STYLE = """
:root { color-scheme: light; }
body { font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1f2328;
  margin: 1.5rem; background: #fff; }
h1 { font-size: 1.25rem; font-weight: 600; margin: 0 0 .75rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #e4e7eb; }
td.wide { white-space: normal; min-width: 18rem; max-width: 34rem; }
th { position: sticky; top: 0; background: #f6f8fa; border-bottom: 2px solid #c9d1d9; font-weight: 600;
  vertical-align: bottom; white-space: normal; }
th.number, td.number { text-align: right; }
tr.first td { border-top: 2px solid #c9d1d9; }
tbody tr:first-child td { border-top: 0; }
tbody tr:hover td { background: #f6f8fa; }
td.repeated { color: #9aa4af; }
.ok { color: #1a7f37; } .failed { color: #b42318; font-weight: 600; } .pending { color: #9a6700; }
.notes { color: #57606a; max-width: 60rem; margin-top: 1rem; }
.notes p { margin: .3rem 0; }
"""
# A cell with more characters than this wraps.
_WIDE = 48


def to_html(table: Display) -> str:
    """Return a whole page."""
    title = escape(table.title)
    body = _table(table) if table.rows else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f'<body>\n<h1>{title}</h1>\n{body}<div class="notes">{notes}</div>\n</body>\n</html>\n'
    )


def _table(table: Display) -> str:
    def heading(name: str) -> str:
        return f'<th scope="col"{_class("number" * (name in table.numbers))}>{escape(name)}</th>'

    wide = {name for i, name in enumerate(table.columns) if any(len(row[i]) > _WIDE for row in table.rows)}
    lines = ['<div class="scroll"><table>', "<thead><tr>" + "".join(map(heading, table.columns)) + "</tr></thead>"]
    lines.append("<tbody>")
    previous = ""
    for row in table.rows:
        new = row[0] != previous
        previous = row[0]
        cells = []
        for i, (name, cell) in enumerate(zip(table.columns, row, strict=True)):
            classes = ["number" * (name in table.numbers), "wide" * (name in wide), "repeated" * (i == 0 and not new)]
            classes += [cell] if name == "status" and cell in ("ok", "failed", "pending") else []
            classes += ["repeated"] if cell == NOTHING else []
            cells.append(f"<td{_class(' '.join(filter(None, classes)))}>{escape(cell)}</td>")
        lines.append(f"<tr{_class('first' * new)}>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</tbody>", "</table></div>"]) + "\n"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
