"""Which TensorRT engines a bundle needs: one for each subgraph of its plan (see layout.py) that differs from the others.

An engine's identity is a hash of what its subgraph is made of: its ONNX files, how they are put together, and the types
at its spec. Subgraphs of one identity share an engine. Adaptors' weights are inputs, so no domain is in it.
"""

import hashlib
import json
from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS
from ..onnx_graph.subgraphs import ingredients
from ..records import Shape
from ..schedule.layout import Layout, Subgraph
from .formats import LINEAR, fast_format

FREE = (1, 64, 16384)  # smallest, usual and greatest size of a dimension that a domain sets: its classes
FULL, HALF = "float32", "float16"
_MAKING = 1  # to be raised when the same files give other engines than before


class Spec(NamedTuple):
    """What is asked of engines. batch: the number of images they are tuned for, and the most they take."""

    precision: str
    batch: Tuple[int, int]


class TensorSpec(NamedTuple):
    """An input or output of an engine: what the engine and what the plan calls it, and how it lies in memory."""

    tensor: str
    value: str
    shape: Shape
    dtype: str
    layout: str


class Wanted(NamedTuple):
    """An engine that a subgraph needs."""

    identity: str
    subgraph: Subgraph
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]

    @property
    def specs(self) -> Tuple[TensorSpec, ...]:
        return self.inputs + self.outputs


def wanted_engines(layout: Layout, manifest: Manifest, spec: Spec, sm: int, linear: Iterable[str] = ()) -> List[Wanted]:
    """What each subgraph of the layout needs, in the order of `layout.subgraphs`; several may need the same.

    With fp16 and int8, what passes between engines is float16, and features lie as the GPU computes in them; the
    image, the gates and the logits are float32. linear: values that must lie in plain rows nevertheless.
    """
    # What a domain's weights have a share in is small, or a row of numbers.
    small = {n for s in manifest.plan if any(i.startswith(DOMAIN) for i in s.inputs) for n in s.outputs}
    rows = set(linear) | small
    fast = fast_format(sm)

    def spec_of(tensor: str, value: str, shape: Shape) -> TensorSpec:
        half = spec.precision != "fp32" and value not in (IMAGE, LOGITS) and shape != (BATCH,)
        features = len(shape) == 4 and not value.startswith(DOMAIN) and value not in rows
        return TensorSpec(tensor, value, shape, HALF if half else FULL, fast if half and features else LINEAR)

    wanted: List[Wanted] = []
    for subgraph in layout.subgraphs:
        inputs, outputs = (
            tuple(spec_of(value.name, name, value.shape) for name, value in zip(names, values))
            for names, values in (
                (subgraph.inputs, subgraph.segment.inputs),
                (subgraph.outputs, subgraph.segment.outputs),
            )
        )
        wanted.append(Wanted(_identity(subgraph, manifest, spec, inputs + outputs), subgraph, inputs, outputs))
    return wanted


def profile(tensor: TensorSpec, spec: Spec) -> Tuple[Tuple[int, ...], Tuple[int, ...], Tuple[int, ...]]:
    """The smallest, the usual and the greatest shape of a value."""
    batch = (1,) + spec.batch
    smallest, usual, greatest = (
        tuple(n if isinstance(n, int) else batch[i] if n == BATCH else FREE[i] for n in tensor.shape) for i in range(3)
    )
    return smallest, usual, greatest


def set_key(wanted: Sequence[Wanted], spec: Spec, device: Sequence[object]) -> str:
    """A name for the engines of a bundle, a device and a spec together."""
    content = [sorted({w.identity for w in wanted}), spec, list(device)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def unique(wanted: Sequence[Wanted]) -> List[Wanted]:
    """The first of each identity."""
    first: Dict[str, Wanted] = {}
    for one in wanted:
        first.setdefault(one.identity, one)
    return [one for one in wanted if first[one.identity] is one]


def _identity(subgraph: Subgraph, manifest: Manifest, spec: Spec, specs: Sequence[TensorSpec]) -> str:
    files, wiring = ingredients(subgraph, manifest, spec.precision)
    content = [_MAKING, FREE, spec.precision, files, wiring, [[b.tensor, b.shape, b.dtype, b.layout] for b in specs]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
