"""One ordinary ONNX file for one trained domain: weights inside, for any runtime.

No control flow, which many runtimes lack: where a domain has gates, a block and what stands in for it are both
computed, and each image takes the one that its gate decides. So the answers are the bundle's, and no time is saved.
"""

from __future__ import annotations

from da3.export.graph import Graph
from da3.toolchain.backbones import Backbone
from da3.toolchain.network.head import Head
from da3.toolchain.network.model import DomainModel


def standalone(backbone: Backbone, head: Head, size: int, classes: int, model: DomainModel | None = None) -> bytes:
    """ONNX bytes: image (batch, 3, size, size) float32, preprocessed -> logits (batch, classes).

    ``head`` supplies the classifier; ``model`` adaptors and, where it is gated, gates and substitutes of ``backbone``.
    """
    graph = Graph("da3")
    x = graph.stem(graph.input("image", ("batch", 3, size, size)), backbone.stem)
    heights = backbone.heights(size)
    logit: str | None = None
    for i, block in enumerate(backbone.blocks):
        added = gate = instead = None
        if model is not None:
            if logit is not None and model.gated:
                gate, instead = graph.decision(logit, model.theta), _substitute(graph, x, model, i, heights[i])
            added, logit = _adaptor(graph, x, model, i, heights[i], heights[i + 1])
        x = graph.block(x, block, added, f"block_{i:02d}", gate=gate, instead=instead)
    features = graph.tail(x, backbone.tail)
    tensors = {n: graph.weight(f"head.{n}", t.numpy()) for n, t in head.domain_tensors().items()}
    graph.output(graph.head(features, tensors), "logits", ("batch", classes))
    return graph.to_bytes()


def _adaptor(
    graph: Graph, x: str, model: DomainModel, i: int, height: int, out_height: int
) -> tuple[str | None, str | None]:
    """What block i's adaptor adds to its output, and the logit of the gate after; None for what there is not."""
    adaptor = model.adaptor(i)
    if adaptor is None:
        return None, None
    tensors = {k: t for k, t in adaptor.domain_tensors().items() if model.gated or not k.startswith("gate")}
    names = {k: graph.weight(f"adaptors.{i}.{k}", tensor.numpy()) for k, tensor in tensors.items()}
    pool = height // adaptor.side
    a, logit = graph.adaptor(x, names, adaptor.cin, adaptor.mid, adaptor.cout, pool, adaptor.side)
    return graph.upsample(a, out_height // adaptor.side), logit


def _substitute(graph: Graph, x: str, model: DomainModel, i: int, height: int) -> str | None:
    """What stands in for block i's branch, as large as that; None where nothing does."""
    substitute = model.bypass(i)
    if substitute is None:
        return None
    tensors = substitute.domain_tensors()
    names = {k: graph.weight(f"substitutes.{i}.{k}", tensor.numpy()) for k, tensor in tensors.items()}
    pool = height // substitute.side
    return graph.upsample(graph.substitute(x, names, substitute.adaptor.cin, pool, substitute.side), pool)
