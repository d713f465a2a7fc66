"""Which TensorRT engines a bundle needs: one for each subgraph of its plan (see layout.py) that is unlike the others.

What runs on the host needs none.

An engine's identity is a hash of what its subgraph is made of: its ONNX files, how they are put together, and the types
that its options give it. Subgraphs of one identity share an engine. Adaptors' weights are inputs, so an engine belongs
to no domain.
"""

import hashlib
import json
from typing import Dict, List, NamedTuple, Sequence, Tuple

from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS
from ..onnx_graph.subgraphs import ingredients
from ..records import Shape
from ..schedule.layout import Layout, Subgraph
from .formats import LINEAR, fast_format
from .tensor_spec import FULL, HALF, TensorSpec, sized_shape

_MAKING = 2  # to be raised when the same files give other engines than before


class EngineOptions(NamedTuple):
    """What is asked of engines. precision: fp32, fp16 or int8; batch: the number of images they are tuned for, and the
    most they take."""

    precision: str
    batch: Tuple[int, int]


class EngineSpec(NamedTuple):
    """An engine that a subgraph needs."""

    identity: str
    subgraph: Subgraph
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]

    @property
    def tensors(self) -> Tuple[TensorSpec, ...]:
        """The inputs, then the outputs."""
        return self.inputs + self.outputs

    def over(self, tensors: Sequence[TensorSpec]) -> "EngineSpec":
        """The same with other tensors, in the order of `tensors`."""
        count = len(self.inputs)
        return self._replace(inputs=tuple(tensors[:count]), outputs=tuple(tensors[count:]))


class Profile(NamedTuple):
    """The shapes of an input that an engine is built for."""

    smallest: Tuple[int, ...]
    usual: Tuple[int, ...]
    greatest: Tuple[int, ...]


class Exceptions(NamedTuple):
    """Values that do not lie as the others do because an engine did not build otherwise. linear: in plain rows;
    full: in plain rows and as float32."""

    linear: Tuple[str, ...] = ()
    full: Tuple[str, ...] = ()


NO_EXCEPTIONS = Exceptions()


def engine_specs(
    layout: Layout,
    manifest: Manifest,
    options: EngineOptions,
    *,
    sm: int,
    typed: bool,
    exceptions: Exceptions = NO_EXCEPTIONS,
) -> List[EngineSpec]:
    """What each subgraph on the device needs, in the order of `layout.device_subgraphs`; several may need the same
    engine.

    With fp16 and int8, what passes between engines is float16, and features lie as the GPU computes in them. What the
    host writes and reads (the image, the logits, gates, the features of exits) is float32 where TensorRT picks types,
    since it converts while it changes the layout, which it has to do anyway. Where it does not (`typed`, see
    api.Library), it converts nothing at the border of an engine, so that is float16 too, and the host converts. sm:
    the GPU's compute capability without its dot.
    """
    # What a domain's weights have a share in is small, or a row of numbers.
    small = {n for s in manifest.plan if any(i.startswith(DOMAIN) for i in s.inputs) for n in s.outputs}
    shared = {IMAGE, LOGITS}.union(layout.fetched)
    full = set(exceptions.full) if typed else shared.union(exceptions.full)
    rows = shared.union(small, *exceptions)
    fast = fast_format(sm)

    def spec_of(tensor: str, value: str, shape: Shape) -> TensorSpec:
        half = options.precision != "fp32" and value not in full and (typed or shape != (BATCH,))
        features = len(shape) == 4 and not value.startswith(DOMAIN) and value not in rows
        return TensorSpec(tensor, value, shape, HALF if half else FULL, fast if half and features else LINEAR)

    specs: List[EngineSpec] = []
    for subgraph in layout.device_subgraphs:
        inputs, outputs = (
            tuple(spec_of(value.name, name, value.shape) for name, value in zip(names, values))
            for names, values in (
                (subgraph.inputs, subgraph.segment.inputs),
                (subgraph.outputs, subgraph.segment.outputs),
            )
        )
        specs.append(EngineSpec(_identity(subgraph, manifest, options, inputs + outputs), subgraph, inputs, outputs))
    return specs


def possible_precision(precision: str, sm: int) -> str:
    """The precision in the place of one that GPUs of this compute capability (without its dot) lack: fp16 for int8.

    INT8 is there from sm_61 on but for the TX2's sm_62, as "Hardware and Precision" of NVIDIA's support matrix has it:
    a Nano or TX1 (sm_53) has no such instruction.
    """
    return "fp16" if precision == "int8" and (sm < 61 or sm == 62) else precision


def profile(tensor: TensorSpec, options: EngineOptions) -> Profile:
    """The shapes of an input that engines with these options are built for."""
    smallest, usual, greatest = (sized_shape(tensor.shape, images) for images in (1,) + options.batch)
    return Profile(smallest, usual, greatest)


def set_key(specs: Sequence[EngineSpec], options: EngineOptions, device: Sequence[object]) -> str:
    """A name for the engines of a bundle, a device and options together."""
    content = [sorted({spec.identity for spec in specs}), options, list(device)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def unique(specs: Sequence[EngineSpec]) -> List[EngineSpec]:
    """The first spec of each identity."""
    first: Dict[str, EngineSpec] = {}
    for spec in specs:
        first.setdefault(spec.identity, spec)
    return [spec for spec in specs if first[spec.identity] is spec]


def _identity(subgraph: Subgraph, manifest: Manifest, options: EngineOptions, tensors: Sequence[TensorSpec]) -> str:
    files, wiring = ingredients(subgraph, manifest, options.precision)
    types = [[t.tensor, t.shape, t.dtype, t.layout] for t in tensors]
    content = [_MAKING, options.precision, files, wiring, types]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
