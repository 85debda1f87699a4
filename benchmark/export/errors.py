"""Why something cannot be taken along."""

from __future__ import annotations


class ExportError(ValueError):
    """What is asked for cannot be exported or published; the message says why and what to do."""
