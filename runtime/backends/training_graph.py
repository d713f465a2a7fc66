"""The graph of a training step as ONNX Runtime runs it best on this machine's CPU.

It is optimised by ONNX Runtime, kept in blocks (NCHWc) from the first convolution to the last gradient where this CPU
computes in blocks, and its nodes are put into the order that keeps least alive.
"""

import os
from typing import Dict, Optional, Tuple

import numpy as np

from ..errors import BackendError, BundleError
from ..onnx_graph.model import Info, Model, Node
from ..onnx_graph.reading import read_model
from ..onnx_graph.writing import write_model
from ..records import Array
from ..system.scratch import temporary_folder
from .blocked import block_borders
from .blocked_elementwise import DOMAIN, elementwise_in_blocks
from .node_order import in_order_of
from .sessions import first_line, open_session

_WIDEST = 16


def for_this_cpu(model: Model, threads: Optional[int] = None, spend: bool = False) -> bytes:
    """The bytes of an ONNX file that computes what `model` does, to be opened with `as_written=True`.

    spend: let go of the model's weights as soon as they are in a file. The bytes are good for this CPU and this ONNX
    Runtime alone. Raises BackendError if ONNX Runtime is missing or refuses the model.
    """
    given, (model, shared) = model, _without_shared_kernels(model)
    if spend:
        given.weights.clear()
    with temporary_folder("graph") as folder:
        plain, source, path = (os.path.join(folder, name) for name in ("plain.onnx", "marked.onnx", "optimised.onnx"))
        with open(plain, "wb") as file:  # before its weights are let go of: not every CPU computes in blocks
            file.write(write_model(model))

        def optimise(data: bytes) -> bytes:
            with open(source, "wb") as file:
                file.write(data)
            del data  # ONNX Runtime has its own copies
            if spend:
                model.weights.clear()
            open_session(source, threads, save=path)
            with open(path, "rb") as file:
                return file.read()

        try:
            blocked = block_borders([model], set(), optimise)
            if blocked is None:
                with open(plain, "rb") as kept:
                    optimised = read_model(optimise(kept.read()))
            else:
                optimised = elementwise_in_blocks(blocked.models[0], block_size(threads))
        except (BundleError, OSError) as error:
            raise BackendError("what ONNX Runtime made of the step cannot be used: %s" % first_line(error))
    return write_model(in_order_of(_with_kernels(optimised, shared), model))


def _without_shared_kernels(model: Model) -> Tuple[Model, Dict[str, Array]]:
    """The model with what ConvTranspose reads as inputs, and these constants: ONNX Runtime would make a copy in blocks
    of one that a Conv reads too."""
    names = {node.inputs[1] for node in model.nodes if node.op == "ConvTranspose" and node.inputs[1] in model.weights}
    shared = {name: array for name, array in model.weights.items() if name in names}
    others = {name: array for name, array in model.weights.items() if name not in names}
    given = [Info(name, array.dtype, array.shape) for name, array in shared.items()]
    return model.replace(weights=others, inputs=model.inputs + given), shared


def _with_kernels(model: Model, shared: Dict[str, Array]) -> Model:
    """The reverse."""
    inputs = [info for info in model.inputs if info.name not in shared]
    return model.replace(weights={**model.weights, **shared}, inputs=inputs)


def block_size(threads: Optional[int] = None) -> int:
    """The channels in a block on this CPU. Raises BackendError where ONNX Runtime knows no blocks."""
    kind = np.dtype(np.float32)
    model = Model(
        [Node("ReorderInput", ["x"], ["b"], {"channels_last": 0}, domain=DOMAIN), Node("Reshape", ["b", "all"], ["y"])],
        {"all": np.array([-1], np.int64)},
        [Info("x", kind, (1, _WIDEST, 1, 2))],
        [Info("y", kind, (2 * _WIDEST,))],
        {"": 13, DOMAIN: 1},
    )
    numbers = np.arange(2.0 * _WIDEST, dtype=np.float32).reshape(1, _WIDEST, 1, 2)
    session = open_session(write_model(model), threads, optimised=True)
    (lying,) = session.run(None, {"x": numbers})
    return int(lying.tolist().index(1.0))  # the second number of the first channel comes behind the first block
