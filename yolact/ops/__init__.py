"""The custom operators, `torch.ops.yolact.*`. Importing this package loads their library."""

from yolact.ops._library import cuda_ops_available
from yolact.ops.assemble_crops import assemble_crops
from yolact.ops.assemble_masks import assemble_masks
from yolact.ops.assemble_runs import assemble_runs
from yolact.ops.convolution import convolution, pack_convolution
from yolact.ops.crop import crop
from yolact.ops.deform_columns import deform_columns
from yolact.ops.detect import detect
from yolact.ops.fast_nms import fast_nms

__all__ = [
    "assemble_crops",
    "assemble_masks",
    "assemble_runs",
    "convolution",
    "crop",
    "cuda_ops_available",
    "deform_columns",
    "detect",
    "fast_nms",
    "pack_convolution",
]
