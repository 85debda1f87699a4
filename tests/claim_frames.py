"""Frames of made-up runs, in the shape of `results.load_results`, for the tests of the claim."""

from __future__ import annotations

import numpy as np
import pandas as pd

METRICS = (
    "debiased_calibration_error",
    "ece_15",
    "ece_100_equal_mass",
    "smooth_ece",
    "ks_calibration_error",
    "nll_calibration",
    "brier_calibration",
)
SQUARED = ("nll_calibration", "brier_calibration")


def runs(
    *,
    ratio: float = 1.0,
    families: tuple[int, int] = (4, 4),
    checkpoints: int = 2,
    seeds: int = 2,
    family_sd: float = 0.1,
    noise_sd: float = 0.1,
    modality: str = "image",
    shifts: tuple[str, ...] = ("noise-1",),
    seed: int = 0,
) -> pd.DataFrame:
    """Runs of two mixers on one dataset; calibration errors have the true `ratio`."""
    generator = np.random.default_rng(seed)
    rows = []
    for side, mixer in enumerate(("attention", "convolution")):
        for number in range(families[side]):
            level = np.log(0.05) + generator.normal(0, family_sd) + (1 - side) * np.log(ratio)
            for copy in range(checkpoints):
                facts = {
                    "suite": "made-up",
                    "model": f"{modality}-{mixer}-{number}-{copy}",
                    "dataset": f"{modality}-data",
                    "status": "completed",
                    "mixer": mixer,
                    "family": f"{modality}-{mixer}-{number}",
                    "modality": modality,
                    "parameters": float(np.exp(generator.normal(15, 1))),
                    "pretraining_examples": 0.0,
                    "label_smoothing": False,
                    "mixup": False,
                    "distillation": False,
                    "folder": "",
                    "accuracy_none": 0.8 + 0.1 * generator.random(),
                }
                for run_seed in range(seeds):
                    for split in ("test", *shifts):
                        row = {"seed": run_seed, "split": split, "shifted": split != "test"}
                        rows.append(
                            facts | row | {"n": 1000} | _metrics(level, noise_sd, generator)
                        )
    return pd.DataFrame(rows)


def _metrics(level: float, noise_sd: float, generator: np.random.Generator) -> dict[str, float]:
    values = {}
    for metric in METRICS:
        for map_name, scale in (("none", 1.0), ("temperature", 0.5)):
            value = float(scale * np.exp(level + generator.normal(0, noise_sd)))
            values[f"{metric}_{map_name}"] = value**2 if metric in SQUARED else value
    return values


def two_modalities(**options: object) -> pd.DataFrame:
    """Image and text runs with disjoint families, as the default suite has them."""
    seed = int(options.pop("seed", 0))  # type: ignore[call-overload]
    parts = [
        runs(modality=modality, seed=seed + index, **options)  # type: ignore[arg-type]
        for index, modality in enumerate(("image", "text"))
    ]
    return pd.concat(parts, ignore_index=True)
