"""What a registry declares for the report of a suite. Imports nothing that draws."""

from __future__ import annotations

import re

from benchmark.registry import Published, Registry


def declared_published(registry: Registry, suite: str) -> tuple[Published, ...]:
    """Return what the registry says was published on a suite, or on its limited variant."""
    declared = registry.suites.get(re.sub(r"-limit-\d+$", "", suite))
    return () if declared is None else declared.published
