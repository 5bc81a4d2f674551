"""Tables for a paper: LaTeX with the rules of the package booktabs."""

from __future__ import annotations

import pandas as pd

from intaglio.report.display import Display
from intaglio.report.formatting import NOTHING

# Signs of the tables that LaTeX has as commands; none of them is in the text before escaping.
_SIGNS = {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "<": "$<$", NOTHING: "--"}


def to_latex(table: Display) -> str:
    """Return the table as a `tabular`, with its notes as comments."""
    notes = [f"% {note}" for note in table.notes]
    if not table.rows:
        return "\n".join(notes) + "\n"
    frame = pd.DataFrame(list(table.rows), columns=list(table.columns))
    align = "".join("r" if name in table.numbers else "l" for name in table.columns)
    styled = frame.style.format(escape="latex").format_index(axis="columns", escape="latex").hide(axis="index")
    text = str(styled.to_latex(hrules=True, column_format=align))
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    return "\n".join([*notes, text])
