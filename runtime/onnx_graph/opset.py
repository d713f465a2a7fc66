"""Graphs of opset 13, which bundles are written with, made graphs of a later opset."""

from typing import List

import numpy as np

from .model import Model, Node, unused_name


def to_opset_19(model: Model) -> Model:
    """A copy of an opset 13 model made of operators that bundles are written with.

    From opset 19 on, quantisers take float16.
    """
    weights = dict(model.weights)
    taken = model.value_names()
    nodes: List[Node] = []
    for node in model.nodes:
        attributes, inputs = dict(node.attributes), list(node.inputs)
        if node.op in ("ReduceMax", "ReduceMean") and "axes" in attributes:  # an input from opset 18 on
            inputs.append(unused_name(node.outputs[0] + "_axes", taken))
            weights[inputs[-1]] = np.array(attributes.pop("axes"), np.int64)
        nodes.append(node.replace(inputs, attributes=attributes))
    opsets = dict(model.opsets, **{"": 19})
    ir_version = max(9, model.ir_version)
    return Model(nodes, weights, model.inputs, model.outputs, opsets, ir_version=ir_version, name=model.name)
