"""Per-sample files of lm-evaluation-harness -> rows of choices, tolerantly read.

A file `samples_<task>_<time>.jsonl` lies in a folder named by the model and holds one JSON object
a line. Lists may have been written as texts, arguments as objects; both are understood.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.importing.errors import SourceError, reading, require_file

_FILE = re.compile(r"^samples_(?P<task>.+?)(?:_(?P<time>\d{4}-\d\d-\d\dT[\d.:+-]+))?\.jsonl$")


class NotMultipleChoiceError(SourceError):
    """The task has no log-likelihoods of several choices; the message says what it has."""


@dataclass(frozen=True)
class SampleFile:
    """A file of samples, with what its place says: model, task and time of the evaluation."""

    path: Path
    model: str
    task: str
    time: str


@dataclass(frozen=True)
class Sample:
    """One document's choices.

    Attributes:
        place: file and line, for messages.
        document: SHA-256 (hex) of the document.
        filter: name of the filter that made `log_likelihoods`.
        log_likelihoods: of the choices, summed over their tokens.
        choices: the choices' texts; empty where the file does not have them.
        target: what the file says of the right choice.
        fields: the document's own fields.
        metrics: the figures of this document by name.
    """

    place: str
    document: str
    filter: str
    log_likelihoods: tuple[float, ...]
    choices: tuple[str, ...]
    target: Any
    fields: Mapping[str, Any]
    metrics: Mapping[str, Any]


def find_sample_files(folder: Path) -> tuple[list[SampleFile], list[str]]:
    """Return the newest file of each model and task below a folder, and notes on older ones.

    Raises:
        SourceError: there is none, or two folders hold the same model and task.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder")
    newest: dict[tuple[str, str], SampleFile] = {}
    notes = []
    for path in sorted(folder.rglob("samples_*.jsonl")):
        match = _FILE.match(path.name)
        if match is None:
            continue
        file = SampleFile(path, path.resolve().parent.name, match["task"], match["time"] or "")
        known = newest.get((file.model, file.task))
        if known is not None and known.path.parent != path.parent:
            raise SourceError(
                f"{known.path.parent} and {path.parent} both hold task '{file.task}' of a model "
                f"'{file.model}'; name the folders by model, or import one of them"
            )
        if known is not None:
            older, file = sorted((known, file), key=lambda one: one.time)
            notes.append(f"{older.path.name} of {file.model} was left out: there is a newer one")
        newest[file.model, file.task] = file
    if not newest:
        raise SourceError(
            f"{folder}: no file samples_<task>_<time>.jsonl here or below; lm-evaluation-harness "
            "writes them with --log_samples --output_path FOLDER"
        )
    return list(newest.values()), notes


def read_samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a file.

    Raises:
        NotMultipleChoiceError: the file's first sample has no log-likelihoods of several choices.
        SourceError: a line is damaged, or a later sample is unlike the first.
    """
    require_file(path)
    with reading(str(path)), path.open(encoding="utf-8") as lines:
        first = True
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{path}: line {number}"
            sample = _object(line, place)
            try:
                yield _sample(sample, place)
            except NotMultipleChoiceError as error:
                if first:
                    raise
                raise SourceError(f"{place}: {error}, unlike the lines before") from None
            first = False


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        sample = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{place}: not JSON ({error}); is the file cut off?") from None
    if not isinstance(sample, dict):
        raise SourceError(f"{place}: a JSON object is needed, as lm-evaluation-harness writes it")
    return sample


def _sample(sample: Mapping[str, Any], place: str) -> Sample:
    if "doc_id" in sample:
        place += f" (doc_id {sample['doc_id']})"
    fields = sample.get("doc")
    likelihoods = _log_likelihoods(sample, place)
    choices = _choices(sample)
    metrics = sample.get("metrics")
    names = metrics if isinstance(metrics, list) else ()
    if "acc_mutual_info" in (*names, *sample) and len(likelihoods) % 2 == 0:
        # The second half are the likelihoods of the choices without the question.
        likelihoods = likelihoods[: len(likelihoods) // 2]
    if len(choices) != len(likelihoods):
        choices = choices[: len(likelihoods)] if len(choices) > len(likelihoods) else ()
    return Sample(
        place=place,
        document=_digest(sample, place),
        filter=str(sample.get("filter", "none")),
        log_likelihoods=likelihoods,
        choices=choices,
        target=sample.get("target"),
        fields=fields if isinstance(fields, dict) else {},
        metrics={**(metrics if isinstance(metrics, dict) else {}), **sample},
    )


def _digest(sample: Mapping[str, Any], place: str) -> str:
    """Return the document's SHA-256: of its fields, so that it is the same whoever logged it."""
    document = sample.get("doc", sample.get("doc_hash", sample.get("doc_id")))
    if document is None:
        raise SourceError(f"{place}: neither 'doc' nor 'doc_hash', so rows of models cannot pair")
    text = json.dumps(document, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _log_likelihoods(sample: Mapping[str, Any], place: str) -> tuple[float, ...]:
    """Return the log-likelihoods of the choices: the filtered ones, else the raw ones."""
    responses = sample.get("filtered_resps", sample.get("resps"))
    if not isinstance(responses, list) or not responses:
        raise NotMultipleChoiceError("it has no responses")
    pairs = [_pair(response) for response in responses]
    if len(pairs) < 2 or any(pair is None for pair in pairs):
        raise NotMultipleChoiceError("its responses are not log-likelihoods of several choices")
    values = tuple(pair for pair in pairs if pair is not None)
    bad = [value for value in values if math.isnan(value) or value == math.inf]
    if bad:
        raise SourceError(f"{place}: a log-likelihood is {bad[0]}; evaluate the model again")
    if all(value == -math.inf for value in values):
        raise SourceError(f"{place}: every log-likelihood is -inf; evaluate the model again")
    return values


def _pair(response: Any) -> float | None:
    """Return the log-likelihood of (log-likelihood, is greedy), or None where it is no such."""
    while isinstance(response, list) and len(response) == 1:
        response = response[0]
    if not isinstance(response, list) or len(response) != 2:
        return None
    value, greedy = response
    if not isinstance(greedy, bool) and str(greedy).strip().lower() not in ("true", "false"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _choices(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the continuations that were scored, without the space that parts them from before."""
    requests = sample.get("arguments")
    if isinstance(requests, dict):
        requests = list(requests.values())
    if not isinstance(requests, list):
        return ()
    texts = [_continuation(request) for request in requests]
    if any(text is None for text in texts):
        return ()
    known = [text for text in texts if text is not None]
    if all(text.startswith(" ") for text in known):
        known = [text[1:] for text in known]
    return tuple(known)


def _continuation(request: Any) -> str | None:
    if isinstance(request, dict):
        request = list(request.values())
    if not isinstance(request, Sequence) or isinstance(request, str) or len(request) < 2:
        return None
    return request[1] if isinstance(request[1], str) else None
