"""Faults happen where they are said to: a place that was renamed would pass for one survived."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest
import test_concurrency
import test_endings
import test_kills
import test_ranks

PLACES = {
    *(place for place, _ in test_ranks.STEPS.values()),
    *test_kills.POINTS,
    *test_kills.WRITES,
    *test_concurrency.WORK,
    test_concurrency.TIMED,
    test_concurrency.TRAINED,
    test_endings.MEASURED,
}


@pytest.mark.parametrize("place", sorted(PLACES))
def test_every_place_exists(place: str) -> None:
    module, _, name = place.partition(":")
    assert callable(reduce(getattr, name.split("."), importlib.import_module(module)))
