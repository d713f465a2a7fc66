"""Which of the built engines this device may use.

A plan is read by the very TensorRT release and on the very kind of GPU it was built with. Anything else is refused
here, in words, before TensorRT sees it.
"""

from typing import List, NamedTuple, Optional, Sequence

from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..schedule.layout import Layout, join_plan, left_out
from .engines import EngineSpec, engine_specs, possible_precision
from .store import Device, EngineSet, read_sets


class ChosenSet(NamedTuple):
    """A set of engines that runs a layout. specs: what each subgraph on the device needs of it, in the order of
    `layout.device_subgraphs`."""

    engines: EngineSet
    specs: List[EngineSpec]


def choose_set(
    folder: str, layout: Layout, bundle: Bundle, device: Device, *, typed: bool, precision: Optional[str] = None
) -> ChosenSet:
    """The set built last that holds every engine of the layout for this device.

    typed: see api.Library. precision: None takes any. Raises BackendError that says why there is none.
    """
    precision = None if precision is None else possible_precision(precision, device.sm)
    sets = [s for s in read_sets(folder) if precision in (None, s.options.precision)]
    here = [s for s in sets if s.device == device]
    for engines in here:
        specs = _specs(engines, layout, bundle, typed)
        if all(spec.identity in engines.engines for spec in specs):
            return ChosenSet(engines, specs)
    kind = "" if precision is None else " in %s" % precision
    command = "run `da3 build`" if precision is None else "run `da3 build --precision %s`" % precision
    if not sets:
        raise BackendError("%s: no engines%s are built for it yet: %s" % (bundle.path, kind, command))
    if not here:
        raise BackendError(
            "%s: its engines%s were built with %s" % (bundle.path, kind, _foreign(sets, device, command))
        )
    raise BackendError("%s: %s" % (bundle.path, _lacking(here[0], layout, bundle, typed, command)))


def _foreign(sets: Sequence[EngineSet], device: Device, command: str) -> str:
    theirs = sets[0].device
    if (theirs.tensorrt, theirs.sm) == (device.tensorrt, device.sm):
        return "%s on a %s; this is a %s: %s" % (theirs.tensorrt, theirs.gpu, device.gpu, command)
    return "%s; this is %s: %s" % (theirs, device, command)


def _lacking(engines: EngineSet, layout: Layout, bundle: Bundle, typed: bool, command: str) -> str:
    if len(layout.readable) > 1:
        return "%s cannot be read from TensorRT engines: trace with the backend onnxruntime or reference" % (
            ", ".join(layout.readable[1:])
        )
    if _holds(engines, layout, bundle, typed) and len(engines.engines) < engines.total:
        return "%d of its %d engines are built: %s to go on" % (len(engines.engines), engines.total, command)
    closed = left_out(layout, bundle.manifest)
    if closed and _holds(engines, join_plan(bundle.manifest, True), bundle, typed):
        blocks = "%s %s" % ("block" if len(closed) == 1 else "blocks", ", ".join(str(block) for block in closed))
        return "its engines are not built yet for a domain that closes %s: %s again, which adds what is missing" % (
            blocks,
            command,
        )
    return "its engines were built from other ONNX files than it has now: %s" % command


def _holds(engines: EngineSet, layout: Layout, bundle: Bundle, typed: bool) -> bool:
    """Does the set hold any engine of the layout?"""
    return any(spec.identity in engines.engines for spec in _specs(engines, layout, bundle, typed))


def _specs(engines: EngineSet, layout: Layout, bundle: Bundle, typed: bool) -> List[EngineSpec]:
    """What a layout needs of a set."""
    return engine_specs(
        layout,
        bundle.manifest,
        engines.options,
        sm=engines.device.sm,
        typed=typed,
        exceptions=engines.exceptions,
    )
