"""How far an engine may be from the reference, as a share of the largest number of what is compared.

They are two to five times what ONNX Runtime differs by in float16 and INT8 on MobileNetV2, a thousand times in float32
(docs/jetson.md has the figures), so that another device's kernels pass and a wrong weight does not.
"""

from typing import Dict, NamedTuple

from ..backends.interface import Backend
from ..bundle.bundle import Bundle
from ..trt.store import engines_folder, read_sets
from .options import SelftestOptions

LEAST = 1e-3  # values smaller than this are compared as if their largest were this


class Tolerance(NamedTuple):
    """part: of what one part makes of exact inputs; chain: of values behind many parts, logits among them; repeat: of
    the same picture run again."""

    part: float
    chain: float
    repeat: float


BY_PRECISION: Dict[str, Tolerance] = {
    "fp32": Tolerance(1e-3, 2e-3, 1e-5),
    "fp16": Tolerance(5e-2, 0.1, 5e-3),
    "int8": Tolerance(0.25, 0.35, 5e-3),
}


def precision_of(options: SelftestOptions, backend: Backend, bundle: Bundle) -> str:
    """The precision that a backend runs the bundle in: what is asked for, else float32, on TensorRT that of the
    engines that were built last."""
    if options.precision is not None or backend.name != "tensorrt":
        return options.precision or "fp32"
    sets = read_sets(engines_folder(bundle, options.engines))
    return sets[0].options.precision if sets else "fp32"
