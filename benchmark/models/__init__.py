"""Checkpoints with their preprocessors, encoded rows and batches.

The stub beside this file lists what other packages may use; each name is imported when first used.
"""

import lazy_loader

from benchmark.models.torchvision_check import require_fitting_torchvision

require_fitting_torchvision()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
