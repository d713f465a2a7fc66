"""Small ONNX graphs to test with, and what ONNX Runtime makes of them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from da3.runtime.backends.sessions import open_session


def graph(nodes, inputs, outputs, weights=None, opset=13):
    """The bytes of a checked graph.

    nodes: (op, inputs, outputs, attributes); inputs, outputs: {name: shape} or {name: (shape, TensorProto type)}.
    """

    def infos(values):
        typed = {
            name: value if isinstance(value, tuple) else (value, TensorProto.FLOAT) for name, value in values.items()
        }
        return [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in typed.items()]

    made = helper.make_graph(
        [helper.make_node(op, given, made, **attributes) for op, given, made, attributes in nodes],
        "graph",
        infos(inputs),
        infos(outputs),
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=7 if opset < 19 else 9)
    return checked(model.SerializeToString())


def checked(data):
    """The same bytes, if onnx finds nothing wrong with them."""
    onnx.checker.check_model(onnx.ModelProto.FromString(data), full_check=True)
    return data


def ort_run(data, feeds):
    """Every output of the graph, computed by ONNX Runtime."""
    return open_session(data).run(None, feeds)


def feeds_for(infos, batch=2, seed=0, free=5):
    """Random arrays for inputs with .name, .dtype and .shape; a free dimension other than the batch is `free`."""
    rng = np.random.RandomState(seed)
    sizes = {"batch": batch}
    return {
        i.name: rng.normal(0, 1, [sizes.get(n, free) if isinstance(n, str) else n for n in i.shape]).astype(i.dtype)
        for i in infos
    }
