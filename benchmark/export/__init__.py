"""A completed run as a checkpoint, an ONNX graph or a repository of the hub, for use elsewhere.

The stub beside this file lists what other packages may use; each name is imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
