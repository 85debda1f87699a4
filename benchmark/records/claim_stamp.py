"""What a suite's claim was when its first run began: written once, and never again.

`results/<suite>/claim-stamp.json` holds the `claim:` block of the registry as it was parsed, its
hash and the time. Two commands that begin at once agree on one stamp. Suites without one, such as
imported logits and results of earlier versions, are not stamped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from benchmark.records.checksums import sealed_json
from benchmark.records.claim import sole_maker
from benchmark.records.files import ResultsError, explained_errors, fsync_path
from benchmark.records.suite_members import read_suite_file, runs_of_suite
from benchmark.registry import Claim

_FILE = "claim-stamp.json"


class ClaimStamp(BaseModel):
    """What was declared, when, and whether that was before the suite had a result.

    Attributes:
        stamped_at: when the first command that ran the suite began, UTC.
        digest: SHA-256 of `claim`, in hexadecimal digits.
        claim: the declared claim as JSON values, options left at their default included.
        records_before: how many runs of the suite had a record already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    stamped_at: datetime
    digest: str
    claim: dict[str, Any]
    records_before: int


def claim_digest(claim: dict[str, Any]) -> str:
    """Return the SHA-256 of JSON values, whatever the order of keys.

    >>> claim_digest({"a": 1, "b": 2}) == claim_digest({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(claim, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def stamp_claim(results: Path, suite: str, claim: Claim) -> ClaimStamp:
    """Return the stamp of a suite, made now if there is none.

    Raises:
        OSError: it cannot be written; names the file.
        ResultsError: there is one that cannot be used.
    """
    known = read_stamp(results, suite)
    if known is not None:
        return known
    content = claim.model_dump(mode="json")
    stamp = ClaimStamp(
        stamped_at=datetime.now(UTC),
        digest=claim_digest(content),
        claim=content,
        records_before=len(runs_of_suite(results, suite)),
    )
    write_text_once(results / suite / _FILE, sealed_json(stamp.model_dump_json(indent=1)))
    made = read_stamp(results, suite)  # another command may have been first
    assert made is not None
    return made


def read_stamp(results: Path, suite: str) -> ClaimStamp | None:
    """Return the stamp of a suite, or None where it has none.

    Raises:
        ResultsError: the file cannot be used.
    """
    path = results / suite / _FILE
    stamp = read_suite_file(path, ClaimStamp, "no stamp of a claim")
    if stamp is None:
        return None
    if claim_digest(stamp.claim) != stamp.digest:
        raise ResultsError(f"{path}: the claim in it does not have the hash that stands beside it")
    return stamp


def write_text_once(path: Path, text: str) -> None:
    """Write a whole file, unless there is one already. Only one of several can succeed.

    Raises:
        OSError: it cannot be written; names the file.
    """
    with explained_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.chmod(0o644)
            fsync_path(temporary)
            _take_place(temporary, path)
            fsync_path(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _take_place(temporary: Path, path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        try:
            os.link(temporary, path)  # in one step, and never over another file
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with sole_maker(path):
                if not path.exists():
                    os.replace(temporary, path)
