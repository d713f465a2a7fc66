"""What can be told of engines without running a picture: for a self-test, and for whoever reads its report."""

import json
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from ..backends.interface import Backend
from ..bundle.bundle import Bundle
from ..cuda.opening import open_cuda
from ..schedule.layout import Layout
from .api import Engine, Library
from .backend import TensorRTBackend
from .engines import unique
from .selection import choose_set
from .store import Device, engines_folder, read_plan


class EngineFacts(NamedTuple):
    """name: its subgraph's; plan_bytes: the file's size; scratch_bytes: what a context works in at its greatest shapes;
    layers: as the release's inspector names them, None where it has none; seconds, precision, libraries: see
    EngineEntry."""

    name: str
    plan_bytes: int
    scratch_bytes: int
    layers: Optional[List[str]]
    seconds: float
    precision: str
    libraries: bool


def describe_engines(
    bundle: Bundle, layout: Layout, folder: Optional[str] = None, precision: Optional[str] = None
) -> Iterator[Tuple[str, Optional[EngineFacts]]]:
    """(name, None) for each engine of the layout before it is loaded, then (name, its facts).

    Raises BackendError where one is missing, is not the one that was built, or is refused.
    """
    place = engines_folder(bundle, folder)
    cuda = open_cuda()  # before TensorRT is given anything, see api.py
    library = Library()
    device = Device(library.version, cuda.gpu.name, cuda.gpu.sm)
    chosen = choose_set(place, layout, bundle, device, typed=library.typed, precision=precision)
    with cuda.current():
        for spec in unique(chosen.specs):
            name = spec.subgraph.segment.name
            yield name, None
            plan = read_plan(chosen.engines, spec.identity)
            engine = library.engine(plan, name)
            entry = chosen.engines.engines[spec.identity]
            layers = layers_of(engine)
            yield (
                name,
                EngineFacts(
                    name=name,
                    plan_bytes=len(plan),
                    scratch_bytes=engine.scratch,
                    layers=layers,
                    seconds=entry.seconds,
                    precision=entry.precision,
                    libraries=entry.libraries,
                ),
            )
            del engine


def layers_of(engine: Engine) -> Optional[List[str]]:
    """A name for each layer that TensorRT runs, in its order; None where the release does not tell.

    An engine that is built with the usual verbosity tells names alone (ProfilingVerbosity.LAYER_NAMES_ONLY).
    """
    trt, raw = engine.library.trt, engine.raw
    if not hasattr(raw, "create_engine_inspector") or not hasattr(trt, "LayerInformationFormat"):
        return None
    try:
        text = raw.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        return [_layer_name(layer) for layer in json.loads(text)["Layers"]]
    except Exception:  # what an inspector says is for people; no test depends on it
        return None


def gpu_memory() -> Tuple[int, int]:
    """Bytes of the GPU's memory that are free, and how many there are. On a board it is the machine's."""
    cuda = open_cuda()
    with cuda.current():
        return cuda.memory()


def run_eagerly(backend: Backend) -> bool:
    """Have what is bound from now on run as it is, never as a CUDA graph; False where it never is anyway."""
    opened = backend.opened_engines if isinstance(backend, TensorRTBackend) else None
    if opened is None or not opened.cuda.graphs:
        return False
    opened.cuda.graphs = False
    return True


def _layer_name(layer: Any) -> str:
    """Layers are names, or objects where an engine was built to tell more."""
    return str(layer.get("Name", layer)) if isinstance(layer, dict) else str(layer)
