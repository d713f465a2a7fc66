"""One ordinary ONNX file for one trained domain: weights inside, every block on, for any runtime."""

from __future__ import annotations

from collections.abc import Callable

from da3.export.graph import Graph
from da3.toolchain.adaptor import Adaptor
from da3.toolchain.backbones import Backbone
from da3.toolchain.model import Head


def standalone(
    backbone: Backbone, adaptor_of: Callable[[int], Adaptor | None], head: Head, size: int, classes: int
) -> bytes:
    """ONNX bytes: image (batch, 3, size, size) float32, preprocessed -> logits (batch, classes).

    ``adaptor_of`` gives the adaptor of a block's index, or None; ``head`` supplies the classifier.
    """
    graph = Graph("da3")
    x = graph.stem(graph.input("image", ("batch", 3, size, size)), backbone.stem)
    heights = backbone.heights(size)
    for i, block in enumerate(backbone.blocks):
        added = None
        adaptor = adaptor_of(i)
        if adaptor is not None:
            names = {
                name: graph.weight(f"adaptors.{i}.{name}", tensor.numpy())
                for name, tensor in adaptor.domain_tensors().items()
                if not name.startswith("gate")
            }
            pool = heights[i] // adaptor.side
            a, _ = graph.adaptor(x, names, adaptor.cin, adaptor.mid, adaptor.cout, pool, adaptor.side)
            added = graph.upsample(a, heights[i + 1] // adaptor.side)
        x = graph.block(x, block, added, f"block_{i:02d}")
    features = graph.tail(x, backbone.tail)
    tensors = {n: graph.weight(f"head.{n}", t.numpy()) for n, t in head.domain_tensors().items()}
    graph.output(graph.head(features, tensors), "logits", ("batch", classes))
    return graph.to_bytes()
