"""Calibration benchmark: compare the calibration of many Hugging Face models.

    from benchmark import Registry, plan, execute, load_results

The functions `plan` and `execute` share their names with the modules they live in; importing
them here, eagerly, is what makes the names mean the functions.
"""

from benchmark.execute import execute
from benchmark.plan import RunSpec, plan
from benchmark.registry import Registry
from benchmark.results import Record, load_results

__all__ = ["Record", "Registry", "RunSpec", "execute", "load_results", "plan"]
