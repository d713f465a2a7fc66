"""A derived graph as TensorRT is to build it: of fixed shapes, and in float16 where that is asked for."""

from typing import Dict, List, Tuple

import numpy as np

from ..onnx_graph.float16 import to_half
from ..onnx_graph.model import Info, Model, Node, unused_name
from ..onnx_graph.writing import write_model
from ..records import Array
from ..trt.graph_plans import End, Graph
from .fixed_batch import rows_per_photo, with_batch


def engine_graph(model: Model, kind: str, title: str, photos: int, half: bool, typed: bool) -> Graph:
    """A graph for so many photos at a time, whose inputs and outputs are float32 whatever it computes in.

    half: in float16, where it is for the better. typed: the release takes types as they are written (from 9 on). Older
    ones choose for each layer themselves, so their graph stays float32: the importer of 8.2 reads the bounds of a Clip
    as float32 whatever they are.
    """
    ends = [tuple(_end(info, photos) for info in infos) for infos in (model.inputs, model.outputs)]
    model = without_log_softmax(with_batch(model, photos))
    if half and typed:
        model = to_half(model, {info.name for info in model.inputs + model.outputs})
    return Graph(kind, title, write_model(model), half, ends[0], ends[1])


def _end(info: Info, photos: int) -> End:
    rows = rows_per_photo(info)
    first = [photos * rows] if rows else []
    return End(info.name, tuple(first + [int(n or 0) for n in info.shape[len(first) :]]), rows)


def without_log_softmax(model: Model) -> Model:
    """A copy in which x - max x - log sum exp(x - max x) stands for LogSoftmax.

    TensorRT's importers make log(softmax(x)) of it, of which nothing is left where a class is improbable: below e^-17
    in float16, below e^-103 in float32.
    """
    nodes: List[Node] = []
    weights: Dict[str, Array] = dict(model.weights)
    taken = model.value_names()
    for node in model.nodes:
        if node.op != "LogSoftmax":
            nodes.append(node)
            continue
        axis, x, y = int(node.attributes.get("axis", -1)), node.inputs[0], node.outputs[0]  # type: ignore[arg-type]
        axes = unused_name(y + "/axes", taken)
        weights[axes] = np.array([axis], np.int64)
        most, below, shares, total, log = (
            unused_name("%s/%s" % (y, part), taken) for part in ("max", "below", "exp", "sum", "log")
        )
        parts: List[Tuple[str, List[str], str]] = [
            ("ReduceMax", [x], most),
            ("Sub", [x, most], below),
            ("Exp", [below], shares),
            ("ReduceSum", [shares, axes], total),
            ("Log", [total], log),
            ("Sub", [below, log], y),
        ]
        for op, inputs, result in parts:
            made = Node(op, inputs, [result], {"keepdims": 1} if op.startswith("Reduce") else {}, name=result)
            if op == "ReduceMax":
                made.attributes["axes"] = [axis]
            nodes.append(made)
    return model.replace(nodes, weights)
