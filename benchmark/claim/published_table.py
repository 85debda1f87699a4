"""A published table of models, without logits, as a frame that the claim can be tested on.

A YAML map says where each fact stands (`table_map.py`). Published errors come without intervals:
where the map gives rows and bins, what so many rows and bins allow is taken for their variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.measurement import Vector
from benchmark.claim.passage import Passage
from benchmark.claim.result import CLAIM_MAPS, ClaimMap, when
from benchmark.claim.table_cells import TableCells
from benchmark.claim.table_map import ColumnMap, Constant, read_column_map
from benchmark.claim.wording import as_sentence
from benchmark.markup import plural

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.registry import Claim

TABLE_METRIC = "calibration_error"
NO_ERROR = "no calibration error in the table"


@dataclass(frozen=True)
class PublishedTable:
    """A published table and what its map says of it.

    Attributes:
        title: for headings.
        name: of the report's folder.
        source: who published it and where; empty: not said.
        error: the published error in words.
        frame: in the shape of `results.load_results`; rows that are left out are not completed.
        variances: a sentence on how well the errors are taken to be known.
    """

    title: str
    name: str
    source: str
    error: str
    frame: pd.DataFrame
    variances: str

    @property
    def metric(self) -> str:
        """The outcome's name in the frame, for `evaluate_claim`."""
        return TABLE_METRIC

    @property
    def maps(self) -> tuple[ClaimMap, ...]:
        """The calibration maps after which the table has errors, `none` first."""
        held = self.frame[self.frame["status"] == "completed"]
        columns = {name: f"{TABLE_METRIC}_{name}" for name in CLAIM_MAPS.values()}
        return tuple(n for n, column in columns.items() if column in held and held[column].any())

    @property
    def words(self) -> tuple[str, ...]:
        """The same as people say it: before and after."""
        return tuple(when(name) for name in self.maps)

    def tested(self, claim: Claim) -> Claim:
        """Return the claim as this table can carry it: about the errors that it has."""
        if CLAIM_MAPS[claim.primary] in self.maps or not self.maps:
            return claim
        (primary,) = (word for word, name in CLAIM_MAPS.items() if name == self.maps[0])
        return claim.model_copy(update={"primary": primary})

    @property
    def passage(self) -> Passage:
        """What a reader must know of the table before its result."""
        kept = self.frame["status"] == "completed"
        reasons = self.frame.loc[~kept, "reason"].value_counts(sort=False)
        left_out = " and ".join(f"{count:,} ({reason})" for reason, count in reasons.items())
        sentences = [
            f"Source: {self.source or 'not said'}",
            f"{plural(len(self.frame), 'row')} in the table, {int(kept.sum()):,} used"
            + (f", left out {left_out}" if left_out else ", none left out"),
            f"The error is {self.error}; mixer, family and what else the table does not give follow"
            " from the map's rules",
            self.variances,
        ]
        if len(self.maps) == 1:
            sentences.append(
                f"It has errors {self.words[0]} temperature scaling only: these are tested"
            )
        sentences.append(
            "Who trained which model by which recipe was not left to chance: a difference between"
            " mixers here would be one between what people made of them"
        )
        return Passage("The table", tuple(as_sentence(text) for text in sentences))


def read_table(table: Path, columns: Path) -> PublishedTable:
    """Read a published table.

    Rows that a drop rule matches, or that lack a calibration error, have a status other than
    completed, so that they are listed and never used.

    Raises:
        ClaimError: a file cannot be read, a column is missing or a value has the wrong type.
    """
    mapping = read_column_map(columns)
    cells = TableCells.read(table)
    frame = _with_status(_facts(cells, mapping), cells, mapping)
    frame, variances = _with_variances(frame, mapping.bins)
    return PublishedTable(
        title=mapping.title or table.name,
        name=mapping.name or table.stem,
        source=mapping.source,
        error=mapping.error or TABLE_METRIC.replace("_", " "),
        frame=frame,
        variances=variances,
    )


def _facts(cells: TableCells, mapping: ColumnMap) -> pd.DataFrame:
    import pandas as pd

    facts = mapping.columns
    # Rules may go by these two, in this order.
    cells.facts["model"] = cells.texts(facts.model)
    cells.facts["family"] = cells.texts(facts.family)
    frame = pd.DataFrame(
        {
            "model": cells.facts["model"],
            "family": cells.facts["family"],
            "mixer": cells.mixers(facts.mixer),
            "dataset": cells.texts(facts.dataset or Constant(value="this table")),
        }
    )
    for name in ("parameters", "pretraining_examples", "temperature"):
        frame[name] = cells.numbers(getattr(facts, name), minimum=0)
    for name in ("label_smoothing", "mixup", "distillation"):
        frame[name] = cells.flags(getattr(facts, name))
    for map_name, fact in (("none", facts.error_before), ("temperature", facts.error_after)):
        if fact is not None:
            frame[f"{TABLE_METRIC}_{map_name}"] = cells.fractions(fact)
    frame["accuracy_none"] = (
        cells.fractions(facts.accuracy)
        if facts.test_error is None
        else 1 - cells.fractions(facts.test_error)
    )
    frame["n"] = cells.numbers(facts.test_rows, minimum=1)
    return frame


def _with_status(frame: pd.DataFrame, cells: TableCells, mapping: ColumnMap) -> pd.DataFrame:
    frame["suite"], frame["split"], frame["shifted"] = "table", "test", False
    frame["status"], frame["reason"] = "completed", ""
    repeats = frame.groupby(["model", "dataset"]).cumcount()
    # Rows of one model on one dataset are its seeds.
    frame["seed"] = repeats
    outcomes = [name for name in frame.columns if str(name).startswith(TABLE_METRIC)]
    missing = frame[outcomes].isna().all(axis=1)
    frame.loc[missing, ["status", "reason"]] = ["skipped", NO_ERROR]
    for rule in mapping.drop:
        frame.loc[cells.matches(rule), ["status", "reason"]] = ["skipped", rule.reason]
    return frame


def error_variances(accuracy: Vector, rows: Vector, bins: int) -> tuple[Vector, Vector]:
    """Return (null variance, slope) [n] of squared calibration errors from rows and bins alone.

    A row that is right with probability p has variance p (1 - p), whose mean is at most a (1 - a)
    by concavity. So with k = a (1 - a) / rows a squared error of `bins` gaps between accuracy and
    confidence has variance 2 bins k^2 where there is no error and 4 k q more at a true square q:
    the scaled non-central chi-square of `measurement.py`. That is a root mean square's; an ECE
    varies less.

    Args:
        accuracy: fractions right [n].
        rows: test rows [n].
        bins: of the error.
    """
    scale = accuracy * (1 - accuracy) / rows
    return 2 * bins * scale**2, 4 * scale


def _with_variances(frame: pd.DataFrame, bins: int | None) -> tuple[pd.DataFrame, str]:
    """Add what rows and bins allow; return the frame and a sentence that says what was done."""
    known = frame["n"].notna() & frame["accuracy_none"].between(0, 1, inclusive="neither")
    used = known & (frame["status"] == "completed")
    if bins is None or not used.any():
        missing = "no number of bins" if bins is None else "no test rows, or no accuracies"
        return frame, (
            "Published errors are taken as exact (the model without variances of measurement): the"
            f" map gives {missing}, so that intervals rest on how families differ"
        )
    null, slope = error_variances(
        frame["accuracy_none"].to_numpy(dtype=float), frame["n"].to_numpy(dtype=float), bins
    )
    known_rows = known.to_numpy()
    added = {}
    for map_name in CLAIM_MAPS.values():
        column = f"{TABLE_METRIC}_squared_{map_name}"
        added[f"{column}_null_variance"] = np.where(known_rows, null, np.nan)
        added[f"{column}_variance_slope"] = np.where(known_rows, slope, np.nan)
    least, most = int(frame.loc[used, "n"].min()), int(frame.loc[used, "n"].max())
    count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    exact = int((~known & (frame["status"] == "completed")).sum())
    rest = f"; {plural(exact, 'row')} without them counted as exact" if exact else ""
    return frame.assign(**added), (
        f"How well each error is known follows from {count} test rows, {bins} bins and the"
        f" accuracy, as an upper limit of its variance{rest}. What bin noise adds to a published"
        " error is not taken off"
    )
