"""The Hugging Face hub: revisions, files and data sets, each error with what to do about it.

What a run needs is fetched here, at a pinned commit, into the hub's cache, and is read from
there. Left to themselves the libraries go on without an optional file when the network fails,
and with another revision's data when a data set cannot be reached.

The stub beside this file lists what other packages may use; each name is imported when first used.
"""

import os

import lazy_loader

# The libraries read these when they are imported, or when they load weights: no token from
# disk, no telemetry, no advice between our lines; and, whatever is set, no request that somebody
# convert a checkpoint.
os.environ.setdefault("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_VERBOSITY", "error")
os.environ.setdefault("DATASETS_VERBOSITY", "error")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
