"""What the logits file of a run holds, as a table."""

from __future__ import annotations

from benchmark.records import RunFolder, read_split, split_names, verify_checksum
from benchmark.statistics import Predictions, accuracy


def table_of(folder: RunFolder) -> str:
    """Return a table of a file's splits, headed by its place and its verified checksum.

    Raises:
        ResultsError: the file is damaged.
        ValueError: a split's logits or labels are invalid.
    """
    from tabulate import tabulate

    checksum = verify_checksum(folder)
    rows = [_row(folder, name) for name in split_names(folder)]
    table = tabulate(
        rows, headers=("split", "rows", "classes", "accuracy"), floatfmt=".4f", intfmt=","
    )
    return f"{folder.logits}\nsha256 {checksum} (verified)\n{table}\n"


def _row(folder: RunFolder, name: str) -> tuple[str, int, int, float]:
    split = read_split(folder, name)
    predictions = Predictions.from_logits(split.logits, split.labels, 1.0)
    return name, len(split.labels), split.logits.shape[1], accuracy(predictions)
