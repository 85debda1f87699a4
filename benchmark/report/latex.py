r"""Tables in LaTeX, of `booktabs`' rules, which compile with any engine and font encoding.

What comes out is plain ASCII: a character that LaTeX has no command for is spelled out (`\u65e5`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from benchmark.markup import MISSING, Cell, Table, visible

MAX_FLOAT_ROWS = 45
"""Rows that fit on a page; a longer table is broken over several (`longtable`)."""

SMALL = r"\scriptsize\setlength{\tabcolsep}{3pt}"

_GREEK = {
    unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}"): rf"$\{name}$"
    for name in (
        *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
        *("mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
    )
} | {
    unicodedata.lookup(f"GREEK CAPITAL LETTER {name.upper()}"): rf"$\{name}$"
    for name in (
        *("Gamma", "Delta", "Theta", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
    )
}
_SYMBOLS = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    # A bracket or star at the start of a row would be an option of the line break before it.
    **{character: f"{{{character}}}" for character in "[]*"},
    **{character: f"${character}$" for character in "<>|"},
    "\N{NO-BREAK SPACE}": "~",
    MISSING: "--",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "÷": r"$\div$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "↔": r"$\leftrightarrow$",
    "∞": r"$\infty$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≠": r"$\ne$",
    "≈": r"$\approx$",
    "√": r"$\surd$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "²": "$^2$",
    "³": "$^3$",
    "…": r"\dots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "“": "``",
    "”": "''",
    "⚠": "!",
}
_LETTERS = {
    "\N{LATIN SMALL LETTER DOTLESS I}": r"{\i}",
    "ß": r"{\ss}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "œ": r"{\oe}",
    "Œ": r"{\OE}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
    "ł": r"{\l}",
    "Ł": r"{\L}",
}
_LATEX = _SYMBOLS | _GREEK | _LETTERS
_ACCENTS = {
    unicodedata.lookup(f"COMBINING {name}"): command
    for name, command in (
        ("GRAVE ACCENT", "`"),
        ("ACUTE ACCENT", "'"),
        ("CIRCUMFLEX ACCENT", "^"),
        ("TILDE", "~"),
        ("MACRON", "="),
        ("BREVE", "u "),
        ("DOT ABOVE", "."),
        ("DIAERESIS", '"'),
        ("RING ABOVE", "r "),
        ("DOUBLE ACUTE ACCENT", "H "),
        ("CARON", "v "),
        ("CEDILLA", "c "),
    )
}


def escape_latex(text: str) -> str:
    r"""Return `text` so that LaTeX typesets it as it is, in ASCII.

    >>> escape_latex("a_b < 5%, é → ∞")
    "a\\_b $<$ 5\\%, {\\'e} $\\rightarrow$ $\\infty$"
    """
    escaped = "".join(map(_character, visible(text)))
    return re.sub(r"-(?=-)", "-{}", escaped) if "--" in text else escaped


def _character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character.isascii():
        return character
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return rf"{{\{_ACCENTS[parts[1]]}{parts[0]}}}"
    return "".join(map(_character, character.encode("unicode_escape").decode("ascii")))


def latex_table(
    table: Table, caption: str, label: str, groups: Mapping[int, str] | None = None
) -> str:
    r"""Return a table: a float, or a `longtable` where it would not fit on a page.

    Args:
        table: its cells are escaped.
        caption: plain text.
        label: for `\ref`.
        groups: by the position of a row: plain text that stands on a line before it.
    """
    groups = groups or {}
    alignment = "".join("r" if column.align == "right" else "l" for column in table.columns)
    head = [
        r"\toprule",
        " & ".join(escape_latex(column.header) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    body: list[str] = []
    for position, row in enumerate(table.rows):
        if position in groups:
            body += [r"\midrule"] if position else []
            title = escape_latex(groups[position])
            body.append(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\textit{{{title}}}}} \\")
        body.append(" & ".join(map(_cell, row)) + r" \\")
    title, name = rf"\caption{{{escape_latex(caption)}}}", rf"\label{{{label}}}"
    if len(body) > MAX_FLOAT_ROWS:
        return _long(alignment, f"{title} {name}", head, body)
    return _lines(
        # A float begins in the size of the text, so that it is made small inside.
        *(r"\begin{table}", r"\centering", title, name, r"\smallskip", SMALL),
        *(rf"\begin{{tabular}}{{{alignment}}}", *head, *body, r"\bottomrule"),
        *(r"\end{tabular}", r"\end{table}"),
    )


def _long(alignment: str, title: str, head: Sequence[str], body: Sequence[str]) -> str:
    return _lines(
        *(
            r"\begingroup",
            SMALL,
            rf"\begin{{longtable}}{{{alignment}}}",
            title + r" \\",
            *head,
            r"\endfirsthead",
        ),
        *(*head, r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}", r"\endgroup"),
    )


def _lines(*lines: str) -> str:
    return "\n".join([*lines, ""])


def _cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text
