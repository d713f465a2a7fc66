"""What is looked at on photos before the first step, and before blocks are closed, as a graph."""

from typing import Collection, Dict, List, NamedTuple

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
    """What an adaptor reads: the cells (B, C, G, G), the same in rows, and G."""

    cells: str
    rows: str
    side: int


def derive_observation(bundle: BundleContents, closed: Collection[int] = ()) -> Model:
    """Inputs: image, and the domain's tensors. Outputs, where rows are (batch G G, C), one for each cell of each image:

    p<i>: rows of the cell means that the adaptor of block i reads. p<n>, n being the number of blocks: those of the
    last block's output on the last adaptor's grid. f<i>: rows of the cell means of what the branch of block i adds, for
    each open block that has a bypass, which is fitted to them. features (batch, F), and e<i> (batch, F'), the features
    of the exit behind block i.
    """
    plan, count = bundle.manifest.plan, len(bundle.manifest.blocks)
    # Each exit's classifier reads its features, and may read the answer before.
    features = [step.inputs[0] for step in plan if step.exit]
    open_steps = [step for step in plan if step.block is not None and step.block not in closed]
    with_bypass = [s for s in open_steps if any(name.startswith(DOMAIN) for name in s.skip_inputs)]
    last = "x%d" % count
    branches = [name for step in with_bypass for name in step.outputs + step.inputs[1:2]]
    found = forward(bundle, 1, closed, [last, _FEATURES] + features + branches)
    out = found.graph
    outputs: List[Info] = []

    def give(name: str, cells: str, channels: int, side: int) -> None:
        """Make rows of cells (B, C, G, G) an output."""
        image = out.node("Transpose", [cells], name, perm=[0, 2, 3, 1])
        out.nodes.append(Node("Reshape", [image, out.integers([-1, channels])], [name]))
        outputs.append(Info(name, _FLOAT, (rows_of(side), channels)))

    pooled = _pooled(found, bundle.path)
    for block, adaptor in sorted(pooled.items()):
        out.nodes.append(Node("Identity", [adaptor.rows], ["p%d" % block]))
        outputs.append(Info("p%d" % block, _FLOAT, (rows_of(adaptor.side), out.shapes[adaptor.rows][1])))
    for step in with_bypass:
        assert step.block is not None
        adaptor = pooled[step.block]
        after = _cell_means(found, step.outputs[0], adaptor.side)
        added = out.node("Sub", [after, adaptor.cells], after)
        branch = out.node("Sub", [added, step.inputs[1]], after)
        give("f%d" % step.block, branch, out.shapes[step.outputs[0]][1], adaptor.side)
    side = pooled[max(pooled)].side
    give("p%d" % count, _cell_means(found, last, side), out.shapes[last][1], side)
    outputs += [Info(value, _FLOAT, (BATCH, out.shapes[value][1])) for value in [_FEATURES] + features]
    model = found.finished(found.inputs(), outputs, "observation")
    read = {name for node in model.nodes for name in node.inputs}
    model.inputs = [info for info in model.inputs if info.name in read]
    return model


def _pooled(found: Forward, path: str) -> Dict[int, _Pooled]:
    """What each adaptor reads, by the number of its block."""
    writers = {node.outputs[0]: node for node in found.graph.nodes}
    pooled: Dict[int, _Pooled] = {}
    for node in found.graph.nodes:
        parts = node.inputs[1].split(".") if node.op == "Gemm" else []
        if len(parts) == 3 and parts[0] == DOMAIN + "adaptors" and parts[2] == "down":
            rows = node.inputs[0]
            cells = writers[writers[rows].inputs[0]].inputs[0]
            pooled[int(parts[1])] = _Pooled(cells, rows, found.graph.shapes[cells][2])
    if not pooled:
        raise BundleError("%s: has no adaptors, so there is nothing to learn: export a da3 domain" % path)
    return pooled


def _cell_means(found: Forward, x: str, side: int) -> str:
    """x (B, C, H, H) -> its means over the cells of a grid, (B, C, G, G)."""
    pool = found.graph.shapes[x][2] // side
    if pool == 1:
        return x
    return found.graph.node("AveragePool", [x], x, kernel_shape=[pool, pool], strides=[pool, pool])
