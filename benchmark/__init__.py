"""Calibration benchmark: compare the calibration of many Hugging Face models.

    from benchmark import Registry, plan, execute, load_results

The function `plan` shares its name with the module it lives in; importing it here, eagerly, is
what makes the name mean the function.
"""

import lazy_loader

from benchmark.plan import plan as plan

__getattr__, __dir__, _lazy = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["plan", *_lazy]
