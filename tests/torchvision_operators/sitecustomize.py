"""Lets torchvision's wheel for GPUs be imported beside a torch for CPUs; python runs it at start.

Its compiled operators (of detectors) cannot be loaded there, and its import asks whether they
exist. timm's transforms of pictures use none of them, so it is enough that their names do.
"""

import torch

_OPERATORS = (
    *("nms", "qnms", "roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward"),
    *("roi_pool", "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "qroi_align"),
    *("deform_conv2d", "_deform_conv2d_backward"),
)

declared = torch.library.Library("torchvision", "DEF")
for name in _OPERATORS:
    declared.define(f"{name}(Tensor values) -> Tensor")
