"""The graph of a subgraph with INT8 written into it, by the magnitudes that a bundle states."""

from typing import Collection, Dict

from ..bundle.bundle import BundleContents
from ..bundle.manifest import Manifest
from ..errors import BundleError
from ..schedule.layout import Subgraph
from .int8 import to_int8
from .int8_places import convolved, summed
from .int8_ranges import INT8_FILE, Magnitudes, read_ranges
from .joining import named_subgraph_model
from .model import Model


def int8_subgraph(subgraph: Subgraph, bundle: BundleContents, pairs: bool = False) -> Model:
    """A subgraph whose convolutions are quantised where their inputs were measured, and sums where all that they add
    was; the rest is float32.

    pairs: see `to_int8`. Raises BundleError where the bundle's magnitudes do not fit its files.
    """
    ranges = read_ranges(bundle)
    between = _between(bundle.manifest, ranges.convolutions)
    model, pieces = named_subgraph_model(subgraph, bundle)
    convolutions: Dict[str, float] = {}
    others: Dict[str, float] = {}
    for piece, names in pieces:
        file = piece.segment.file
        for found, measured, known, what in (
            (convolutions, ranges.convolutions, convolved(piece.model), "no convolution of %s reads %r"),
            (others, ranges.others, summed(piece.model), "no sum or average of %s has %r"),
        ):
            values = measured.get(file, {})
            _check(bundle, file, values, known, what)
            found.update((names[value], largest) for value, largest in values.items())
    if len(pieces) > 1:  # a step's own graph is the same wherever in the plan it stands: see `ingredients`
        for piece, names in pieces:
            ends = zip(piece.segment.inputs + piece.segment.outputs, piece.step.inputs + piece.step.outputs)
            others.update((names[value.name], between[name]) for value, name in ends if name in between)
    return to_int8(model, convolutions, others, pairs)


def _between(manifest: Manifest, measured: Magnitudes) -> Dict[str, float]:
    """The magnitudes of values between steps, as the step states whose convolution reads them.

    They hold for whoever reads the same value, such as what is done in the place of a closed block, whose file may
    serve several.
    """
    found: Dict[str, float] = {}
    for step in manifest.plan:
        segment = manifest.segments[step.segment]
        values = measured.get(segment.file, {})
        found.update((name, values[v.name]) for v, name in zip(segment.inputs, step.inputs) if v.name in values)
    return found


def _check(bundle: BundleContents, file: str, values: Collection[str], known: Collection[str], what: str) -> None:
    for name in values:
        if name not in known:
            raise BundleError(
                "%s: %s: %s; run `da3 calibrate --int8` again" % (bundle.path, INT8_FILE, what % (file, name))
            )
