"""What is looked at on photos before the first step, as a graph."""

from typing import Dict, List, NamedTuple

import numpy as np

from ..bundle.bundle import BundleContents
from ..bundle.plan import BATCH, DOMAIN
from ..errors import BundleError
from ..onnx_graph.model import Info, Model, Node
from .fixed_batch import rows_of
from .forward import Forward, forward

_FLOAT = np.dtype(np.float32)
_FEATURES = "features"


class _Pooled(NamedTuple):
    """What an adaptor reads: its rows, their channels, and how many cells a side an image has."""

    rows: str
    channels: int
    side: int


def derive_observation(bundle: BundleContents) -> Model:
    """Inputs: image, and the domain's tensors. Outputs, where rows are (batch G G, C), one for each cell of each image:

    p<i>: rows of the cell means that the adaptor of block i reads. p<n>, n being the number of blocks: those of the
    last block's output on the last adaptor's grid. features (batch, F).
    """
    count = len(bundle.manifest.blocks)
    last = "x%d" % count
    found = forward(bundle, 1, (), [last, _FEATURES])
    out = found.graph
    outputs: List[Info] = []
    pooled = _pooled(found, bundle.path)
    for block, adaptor in sorted(pooled.items()):
        out.nodes.append(Node("Identity", [adaptor.rows], ["p%d" % block]))
        outputs.append(Info("p%d" % block, _FLOAT, (rows_of(adaptor.side), adaptor.channels)))
    name, channels, side = "p%d" % count, out.shapes[last][1], pooled[max(pooled)].side
    turned = out.node("Transpose", [_cell_means(found, last, side)], name, perm=[0, 2, 3, 1])
    out.nodes.append(Node("Reshape", [turned, out.integers([-1, channels])], [name]))
    outputs.append(Info(name, _FLOAT, (rows_of(side), channels)))
    outputs.append(Info(_FEATURES, _FLOAT, (BATCH, out.shapes[_FEATURES][1])))
    model = found.finished(found.inputs(), outputs, "observation")
    read = {name for node in model.nodes for name in node.inputs}
    model.inputs = [info for info in model.inputs if info.name in read]
    return model


def _pooled(found: Forward, path: str) -> Dict[int, _Pooled]:
    """What each adaptor reads, by the number of its block."""
    writers = {node.outputs[0]: node for node in found.graph.nodes}
    shapes = found.graph.shapes
    pooled: Dict[int, _Pooled] = {}
    for node in found.graph.nodes:
        parts = node.inputs[1].split(".") if node.op == "Gemm" else []
        if len(parts) == 3 and parts[0] == DOMAIN + "adaptors" and parts[2] == "down":
            rows = node.inputs[0]
            cells = writers[writers[rows].inputs[0]].inputs[0]
            pooled[int(parts[1])] = _Pooled(rows, shapes[rows][1], shapes[cells][2])
    if not pooled:
        raise BundleError("%s: has no adaptors, so there is nothing to learn: export a da3 domain" % path)
    return pooled


def _cell_means(found: Forward, x: str, side: int) -> str:
    """x (B, C, H, H) -> its means over the cells of a grid, (B, C, G, G)."""
    pool = found.graph.shapes[x][2] // side
    if pool == 1:
        return x
    return found.graph.node("AveragePool", [x], x, kernel_shape=[pool, pool], strides=[pool, pool])
