"""A domain model cut into the segments and the plan of a bundle: what is deployed, and in which order it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from da3.export.graph import Graph, Shape
from da3.toolchain.autograd.block import Block
from da3.toolchain.network.adaptor import Adaptor
from da3.toolchain.network.bypass import LowRankBypass
from da3.toolchain.network.model import DomainModel


@dataclass
class Deployment:
    """Everything of a bundle that no domain owns. ``files``: ONNX bytes by path; the rest as in manifest.json."""

    files: dict[str, bytes] = field(default_factory=dict)
    segments: dict[str, dict[str, object]] = field(default_factory=dict)
    plan: list[dict[str, object]] = field(default_factory=list)
    blocks: list[dict[str, object]] = field(default_factory=list)

    def add(self, name: str, folder: str, graph: Graph) -> str:
        """Add a segment once; ``name`` names both it and its file."""
        if name not in self.segments:
            file = f"{folder}/{name}.onnx"
            self.files[file] = graph.to_bytes()
            self.segments[name] = {
                "file": file,
                "inputs": [{"name": n, "shape": list(s)} for n, s in graph.inputs],
                "outputs": [{"name": n, "shape": list(s)} for n, s in graph.outputs],
            }
        return name


def deploy(model: DomainModel) -> Deployment:
    """Segments and plan of ``model``'s backbone and adaptor shapes. Its weights are used for the backbone only."""
    backbone, size = model.backbone, model.size
    heights = backbone.heights(size)
    out = Deployment()

    stem = Graph("stem")
    channels = backbone.blocks[0].in_channels
    shape = ("batch", channels, heights[0], heights[0])
    stem.output(stem.stem(stem.input("image", ("batch", 3, size, size)), backbone.stem), "x", shape)
    out.plan.append({"segment": out.add("stem", "backbone", stem), "inputs": ["image"], "outputs": ["x0"]})

    for i, block in enumerate(backbone.blocks):
        adaptor = model.adaptor(i)
        if adaptor is not None:
            _add_adaptor(out, i, adaptor, heights[i])
        side = None if adaptor is None else adaptor.side
        step = _block_step(out, i, block, side, heights[i], heights[i + 1])
        substitute = model.bypass(i)
        if substitute is not None:
            step |= {"gate": f"g{i}", **_substituted(out, i, substitute, heights[i])}
        elif model.gateable[i]:
            step |= {
                "gate": f"g{i}",
                "skip": _block_segment(out, i, block, side, heights[i], heights[i + 1], run=False),
            }
        out.plan.append(step)
        flops = block.flops(heights[i])
        out.blocks.append(
            {
                "name": block.name,
                "flops": flops.branch + flops.shortcut,
                "skip_flops": flops.shortcut + model.bypass_flops(i) if model.gateable[i] else None,
            }
        )

    last, side = backbone.blocks[-1].out_channels, heights[-1]
    tail = Graph("tail")
    x = tail.input("x", ("batch", last, side, side))
    tail.output(tail.tail(x, backbone.tail), "features", ("batch", backbone.feature_size))
    out.plan.append(
        {
            "segment": out.add("tail", "backbone", tail),
            "inputs": [f"x{len(backbone.blocks)}"],
            "outputs": ["features"],
        }
    )
    _add_head(out, backbone.feature_size)
    return out


def _add_adaptor(out: Deployment, i: int, adaptor: Adaptor, height: int) -> None:
    stride_pool = height // adaptor.side
    tensors = {name: tuple(t.shape) for name, t in adaptor.domain_tensors().items()}
    gate = "gate" in tensors
    # Named by shape: adaptors of equal shape share a graph, and so an engine.
    name = f"adaptor_{adaptor.cin}x{height}_{adaptor.mid}_{adaptor.cout}x{adaptor.side}{'_gate' if gate else ''}"
    graph = Graph(name)
    x = graph.input("x", ("batch", adaptor.cin, height, height))
    for tensor, shape in tensors.items():
        graph.input(tensor, shape)
    a, logit = graph.adaptor(
        x, {t: t for t in tensors}, adaptor.cin, adaptor.mid, adaptor.cout, stride_pool, adaptor.side
    )
    graph.output(a, "a", ("batch", adaptor.cout, adaptor.side, adaptor.side))
    if logit is not None:
        graph.output(logit, "logit", ("batch",))
    out.plan.append(
        {
            "segment": out.add(name, "adaptors", graph),
            "inputs": [f"x{i}", *(f"domain:adaptors.{i}.{tensor}" for tensor in tensors)],
            "outputs": [f"a{i}", *([f"g{i + 1}"] if gate else [])],
        }
    )


def _block_step(
    out: Deployment, i: int, block: Block, side: int | None, height: int, out_height: int
) -> dict[str, object]:
    return {
        "segment": _block_segment(out, i, block, side, height, out_height, run=True),
        "inputs": [f"x{i}", *([] if side is None else [f"a{i}"])],
        "outputs": [f"x{i + 1}"],
        "block": i,
    }


def _block_segment(
    out: Deployment, i: int, block: Block, side: int | None, height: int, out_height: int, run: bool
) -> str:
    """The block, or what is left of it when it is skipped."""
    name = f"{'block' if run else 'skip'}_{i:02d}"
    graph = Graph(name)
    x = graph.input("x", ("batch", block.in_channels, height, height))
    added = None
    if side is not None:
        a = graph.input("a", ("batch", block.out_channels, side, side))
        added = graph.upsample(a, out_height // side)
    y = graph.block(x, block, added, f"block_{i:02d}", run)
    shape: Shape = ("batch", block.out_channels, out_height, out_height)
    graph.output(y, "y", shape)
    return out.add(name, "backbone", graph)


def _substituted(out: Deployment, i: int, substitute: LowRankBypass, height: int) -> dict[str, object]:
    """x + upsampled (a + c): what is done in the place of a block whose shortcut is its input."""
    side, channels = substitute.side, substitute.adaptor.cin
    tensors = {name: tuple(t.shape) for name, t in substitute.domain_tensors().items()}
    name = f"skip_{channels}x{height}_{side}"
    graph = Graph(name)
    shape: Shape = ("batch", channels, height, height)
    x, a = graph.input("x", shape), graph.input("a", ("batch", channels, side, side))
    names = {tensor: graph.input(tensor, size) for tensor, size in tensors.items()}
    c = graph.substitute(x, names, channels, height // side, side)
    added = graph.upsample(graph.node("Add", [a, c]), height // side)
    graph.output(graph.node("Add", [x, added]), "y", shape)
    return {
        "skip": out.add(name, "adaptors", graph),
        "skip_inputs": [f"x{i}", f"a{i}", *(f"domain:substitutes.{i}.{tensor}" for tensor in tensors)],
    }


def _add_head(out: Deployment, features: int) -> None:
    head = Graph("head")
    x = head.input("features", ("batch", features))
    shapes: dict[str, Shape] = {"mean": (features,), "weight": ("classes", features), "bias": ("classes",)}
    names = {name: head.input(name, shape) for name, shape in shapes.items()}
    head.output(head.head(x, names), "logits", ("batch", "classes"))
    out.plan.append(
        {
            "segment": out.add("head", "adaptors", head),
            "inputs": ["features", *(f"domain:head.{name}" for name in shapes)],
            "outputs": ["logits"],
        }
    )
