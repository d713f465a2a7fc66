"""The graph of a subgraph in the precision that is asked for: the bundle's files are float32, all else is made of them."""

from typing import Container

from ..bundle.bundle import Bundle
from ..errors import BackendError, BundleError
from ..schedule.layout import Subgraph
from .int8_ranges import INT8_FILE, convolved, read_ranges
from .joining import subgraph_model
from .onnxfile import Model
from .precision import half_borders, to_half, to_int8, to_opset_19

PRECISIONS = ("fp32", "fp16", "int8")


def cpu_subgraph(subgraph: Subgraph, bundle: Bundle, precision: str = "fp32") -> Model:
    """A subgraph whose inputs and outputs are float32, whatever is between them. With int8, what is not quantised is
    float32 too."""
    if precision == "fp32":
        return subgraph_model(subgraph, bundle)
    if precision == "fp16":
        model = subgraph_model(subgraph, bundle)
        return to_half(model, {info.name for info in model.inputs + model.outputs})
    if precision == "int8":
        return int8_subgraph(subgraph, bundle)
    raise BackendError("unknown precision %r; known: %s" % (precision, ", ".join(PRECISIONS)))


def engine_subgraph(
    subgraph: Subgraph, bundle: Bundle, precision: str, full: Container[str], typed: bool = True
) -> Model:
    """A subgraph as TensorRT takes it: with fp16 and int8, inputs and outputs are float16 but for those named in `full`.

    typed: the release takes types as they are written (from 9 on): all that is not quantised is float16 there,
    quantisers' scales included. Older releases choose among the types that their flags allow, so only the border is
    written as float16: the importer of 8.2 reads the bounds of Clip as float32 whatever they are, and quantisers take
    float32 only, right before their convolution, and no int8 constants.
    """
    if precision == "fp32":
        return subgraph_model(subgraph, bundle)
    model = (
        subgraph_model(subgraph, bundle) if precision == "fp16" else int8_subgraph(subgraph, bundle, pairs=not typed)
    )
    if not typed:
        return half_borders(model, full)
    quantised = any(node.op == "QuantizeLinear" for node in model.nodes)
    return to_half(to_opset_19(model) if quantised else model, full)


def int8_subgraph(subgraph: Subgraph, bundle: Bundle, pairs: bool = False) -> Model:
    """A subgraph with the convolutions quantised whose inputs were measured; the rest is float32. pairs: see to_int8."""
    ranges = read_ranges(bundle)

    def quantised(file: str, model: Model) -> Model:
        known = convolved(model)
        for name in ranges.get(file, {}):
            if name not in known:
                raise BundleError(
                    "%s: %s: no convolution of %s reads %r; run `da3 calibrate --int8` again"
                    % (bundle.path, INT8_FILE, file, name)
                )
        return to_int8(model, ranges.get(file, {}), pairs)

    return subgraph_model(subgraph, bundle, quantised)
