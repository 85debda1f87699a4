"""The registry: what registry.yaml may say, and reading it with errors that name the fix."""

from __future__ import annotations

from benchmark.registry.entries import (
    Claim,
    Columns,
    Covariate,
    DatasetEntry,
    Entry,
    MixedPrecision,
    Mixer,
    Modality,
    ModelEntry,
    Pretraining,
    Published,
    Recipe,
    Schedule,
    Splits,
    StochasticFit,
    Suite,
    did_you_mean,
)
from benchmark.registry.loading import DEFAULT_REGISTRY, Registry
from benchmark.registry.source import RegistryError

__all__ = [
    "DEFAULT_REGISTRY",
    "Claim",
    "Columns",
    "Covariate",
    "DatasetEntry",
    "Entry",
    "MixedPrecision",
    "Mixer",
    "Modality",
    "ModelEntry",
    "Pretraining",
    "Published",
    "Recipe",
    "Registry",
    "RegistryError",
    "Schedule",
    "Splits",
    "StochasticFit",
    "Suite",
    "did_you_mean",
]
