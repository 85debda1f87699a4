"""What an export says of its temperature: a dictionary for programs, sentences for people.

The dictionary stands under the key `calibration` in `config.json`, alone in `calibration.json`,
and in the metadata of an ONNX graph; docs/export.md says what its entries are.
"""

from __future__ import annotations

import math
from typing import Any

from benchmark.export.finding import FinishedRun
from benchmark.markup import decimals, plural
from benchmark.statistics import Estimate

KEY = "calibration"
"""In `config.json` of an exported checkpoint."""

FILE = "calibration.json"

_LIMITS = {
    "at_zero": "every calibration row was predicted right, so ever more confidence fits better",
    "at_infinity": "on the calibration rows the logits say no more than chance",
    "flat": "the logits of every calibration row are all alike, so no temperature changes them",
}


def applied_temperature(run: FinishedRun) -> float:
    """Return what the logits are divided by; 1 where the fit ended at a limit, 0 or infinity."""
    return run.temperature.value if run.temperature.status == "converged" else 1.0


def describe(run: FinishedRun) -> dict[str, Any]:
    """Return everything there is to know of a run's temperature, as JSON values."""
    fit, dataset = run.temperature, run.spec.dataset
    has_interval = fit.low is not None and fit.high is not None
    return {
        "method": "temperature scaling",
        "temperature": applied_temperature(run),
        "formula": "softmax(logits / temperature)",
        "interval": [fit.low, fit.high] if has_interval and fit.status == "converged" else None,
        "interval_level": 0.95,
        "no_interval": fit.no_interval,
        "status": fit.status,
        "helped": _helped(run),
        "notes": notes(run),
        "fitted_on": {
            "dataset": dataset.name,
            "source": _source(run),
            "revision": run.spec.data_revision,
            "split": "calibration",
            "rows": fit.n,
            "nll_before": fit.nll_before,
            "nll_after": _finite(fit.nll_after),
        },
        "run": run.name,
    }


def notes(run: FinishedRun) -> list[str]:
    """Return what a user of the temperature must know, a sentence each; often none."""
    found = []
    limit = _LIMITS.get(run.temperature.status)
    if limit is not None:
        found.append(
            f"The fit of the temperature ended at a limit ({limit}), so none is applied: the "
            "temperature is 1."
        )
    elif not _helped(run):
        before, after = (_nll(run, name) for name in ("none", "temperature"))
        rows = plural(run.record.scores["test"].n, "test row")
        found.append(
            f"Scaling did not lower the NLL of the {rows}: {decimals(before.value, 4)} before, "
            f"{decimals(after.value, 4)} after."
        )
    return found


def _helped(run: FinishedRun) -> bool:
    """Say whether the NLL of the test rows is lower with the temperature than without."""
    if run.temperature.status != "converged":
        return False
    return _nll(run, "temperature").value < _nll(run, "none").value


def _nll(run: FinishedRun, map_name: str) -> Estimate:
    return run.record.scores["test"].maps[map_name]["nll"]


def _source(run: FinishedRun) -> str:
    """Return where the data are from; of files only the last name, for the rest is private."""
    dataset = run.spec.dataset
    if dataset.hub is not None:
        return dataset.hub
    if dataset.path is not None:
        return dataset.path.name
    return f"{dataset.embedded}, carried by a Python package"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
