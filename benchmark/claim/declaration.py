"""Whether what is tested is what was declared before the first run, in data and in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.claim.passage import Passage
from benchmark.claim.side_results import ChangedField, Declaration
from benchmark.markup import plural
from benchmark.records import ClaimStamp, ResultsError, read_stamp
from benchmark.registry import Claim

SHOWN_DIGITS = 12
NOT_STAMPED = (
    "Not stamped: these results do not tell what was declared before they were made, as results of "
    "earlier versions and imports do not"
)


def declaration_of(results: Path, suite: str, claim: Claim) -> Declaration:
    """Return what a suite's stamp says of the claim that is tested now.

    Args:
        results: the result tree.
        suite: name of a suite in it.
        claim: what is tested.
    """
    try:
        stamp = read_stamp(results, suite)
    except ResultsError as error:
        return Declaration(problem=str(error))
    return Declaration() if stamp is None else _compare(stamp, claim)


def _compare(stamp: ClaimStamp, claim: Claim) -> Declaration:
    now = claim.model_dump(mode="json")
    # An option that came later had its default then.
    then = Claim().model_dump(mode="json") | stamp.claim
    changed = tuple(
        ChangedField(name=name, declared=_text(then.get(name)), tested=_text(now.get(name)))
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    )
    return Declaration(
        stamped_at=stamp.stamped_at,
        digest=stamp.digest,
        records_before=stamp.records_before,
        changed=changed,
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not an option" if value is None else str(value)


def declaration_passage(declaration: Declaration | None) -> Passage | None:
    """Return what a report says of the declaration; None where nothing could be declared."""
    if declaration is None:
        return None
    return Passage("What was declared", tuple(_sentences(declaration)))


def changes_sentence(declaration: Declaration | None) -> str:
    """Say in a sentence what is tested otherwise than declared; empty where nothing is."""
    if declaration is None or not declaration.changed:
        return ""
    changes = "; ".join(
        f"{field.name} was {field.declared}, now {field.tested}" for field in declaration.changed
    )
    return f"What is tested differs from what was declared before: {changes}."


def _sentences(declaration: Declaration) -> Iterator[str]:
    if declaration.problem is not None:
        yield f"The stamp of the claim cannot be used: {declaration.problem}"
        return
    if declaration.stamped_at is None:
        yield NOT_STAMPED
        return
    when = f"{declaration.stamped_at:%Y-%m-%d %H:%M} UTC"
    before = "before the first run"
    if declaration.records_before:
        before = (
            f"when {plural(declaration.records_before, 'run')} had a record already, so that what "
            "was declared before those is not known"
        )
    yield f"Declared on {when}, hash {declaration.digest[:SHOWN_DIGITS]}, {before}"
    yield changes_sentence(declaration) or "What is tested is what was declared"
