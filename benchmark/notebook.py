"""Values in an interpreter or a notebook."""

from __future__ import annotations

import html


class Shown:
    """A value that fits on one screen where an interpreter or a notebook shows it.

    Its class says what is shown in `_shown`: a title, and facts by name.
    """

    def _shown(self) -> tuple[str, dict[str, str]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        title, facts = self._shown()
        width = max(map(len, facts), default=0)
        return "\n".join([title, *(f"  {key:<{width}}  {text}" for key, text in facts.items())])

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        title, facts = self._shown()
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for key, text in facts.items()
        )
        return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"
