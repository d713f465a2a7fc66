"""A network cut into the segments and the plan of a bundle: what is deployed, and in which order it runs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from da3.export.graph import Graph
from da3.runtime.bundle import (
    BATCH,
    DOMAIN,
    FORMAT,
    IMAGE,
    LOGITS,
    MANIFEST,
    BundleContents,
    Manifest,
    file_entry,
    manifest_file,
)
from da3.runtime.images import Preprocessing
from da3.runtime.records import Block as BlockRecord
from da3.runtime.records import Segment, Shape, Step
from da3.runtime.system import distribution_version
from da3.runtime.training.recipe import CARRY, LAST_CARRY
from da3.toolchain.autograd import Block
from da3.toolchain.backbones import Backbone, Stem
from da3.toolchain.network import Adaptor, DomainModel, Exit, LowRankBypass


class Deployment(BundleContents):
    """Everything of a bundle that no domain owns, in memory. ``files``: the bytes of the manifest's files, by name."""

    def __init__(self, manifest: Manifest, files: dict[str, bytes]):
        self.path = "what is exported"
        self.manifest, self.files = manifest, files

    def read(self, name: str) -> bytes:
        return self.files[name]

    def every_file(self) -> dict[str, bytes]:
        """The files, and manifest.json."""
        return {**self.files, MANIFEST: manifest_file(self.manifest)}


def deploy(model: DomainModel, preprocessing: Preprocessing) -> Deployment:
    """Segments and plan of ``model``'s backbone and of the shapes of what is added, whose weights are left out."""
    added = [
        _Added(model.adaptor(i), model.bypass(i), model.closable[i], model.exit_behind(i))
        for i in range(len(model.backbone.blocks))
    ]
    return _cut(model.backbone, added, preprocessing, model.spec.to_json())


def deploy_plain(backbone: Backbone, preprocessing: Preprocessing) -> Deployment:
    """Segments and plan of a backbone without adaptors, whose domains are heads alone."""
    return _cut(backbone, [_Added()] * len(backbone.blocks), preprocessing, {})


@dataclass(frozen=True)
class _Added:
    """What a block has beside it. ``closable``: domains may close the block, and have ``bypass`` instead where it is;
    ``exit``: the one behind it."""

    adaptor: Adaptor | None = None
    bypass: LowRankBypass | None = None
    closable: bool = False
    exit: Exit | None = None


def _cut(
    backbone: Backbone, added: list[_Added], preprocessing: Preprocessing, adaptor_spec: dict[str, object]
) -> Deployment:
    heights = backbone.heights(preprocessing.size)
    out = _Cutter()
    out.stem(backbone.stem, preprocessing.size, heights[0])
    for i, block in enumerate(backbone.blocks):
        adaptor = added[i].adaptor
        if adaptor is not None:
            out.adaptor(i, adaptor, heights[i])
        out.block(_Place(i, block, None if adaptor is None else adaptor.side, heights[i], heights[i + 1]), added[i])
        exit = added[i].exit
        if exit is not None:
            out.exit(i, exit, heights[i + 1])
    out.tail(backbone, heights[-1])
    out.head(backbone.feature_size)
    info = backbone.info
    return Deployment(
        Manifest(
            format=FORMAT,
            created_by=f"da3 {distribution_version('da3') or 'unknown'}",  # unknown: run from a source tree
            backbone={
                "arch": info.arch,
                "width": info.width,
                "sha256": info.sha256,
                "feature_size": backbone.feature_size,
            },
            backbone_sha256=info.sha256,
            preprocessing=preprocessing,
            adaptor=adaptor_spec,
            blocks=tuple(out.blocks),
            segments=out.segments,
            plan=tuple(out.plan),
            files={name: file_entry(data) for name, data in sorted(out.files.items())},
        ),
        out.files,
    )


@dataclass(frozen=True)
class _Place:
    """A block of index ``i`` where it is in the network: heights of its input and output, and the cells a side of what
    its adaptor adds (None: it has no adaptor)."""

    i: int
    block: Block
    side: int | None
    height: int
    out_height: int

    @property
    def reads(self) -> tuple[str, ...]:
        """The plan's names of what the block reads."""
        return (f"x{self.i}",) if self.side is None else (f"x{self.i}", f"a{self.i}")


class _Cutter:
    """The segments and the plan so far."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.segments: dict[str, Segment] = {}
        self.plan: list[Step] = []
        self.blocks: list[BlockRecord] = []
        self._answer: str | None = None  # of the last exit so far

    def _segment(self, folder: str, graph: Graph) -> str:
        """Add a segment once. The graph's name is the segment's and its file's."""
        if graph.name not in self.segments:
            file = f"{folder}/{graph.name}.onnx"
            self.files[file] = graph.to_bytes()
            self.segments[graph.name] = Segment(graph.name, file, tuple(graph.inputs), tuple(graph.outputs))
        return graph.name

    def stem(self, stem: Stem, size: int, height: int) -> None:
        graph = Graph("stem")
        image = graph.input("image", (BATCH, 3, size, size))
        graph.output(graph.stem(image, stem), "x", (BATCH, stem.conv.weight.shape[0], height, height))
        self.plan.append(Step(self._segment("backbone", graph), (IMAGE,), ("x0",)))

    def adaptor(self, i: int, adaptor: Adaptor, height: int) -> None:
        # Named by shape: adaptors of equal shape share a graph, and so an engine.
        graph = Graph(f"adaptor_{adaptor.cin}x{height}_{adaptor.mid}_{adaptor.cout}x{adaptor.side}")
        x = graph.input("x", (BATCH, adaptor.cin, height, height))
        tensors = adaptor.domain_tensors()
        graph.domain_inputs(_shapes(tensors))
        graph.output(graph.adaptor(x, adaptor, height), "a", (BATCH, adaptor.cout, adaptor.side, adaptor.side))
        inputs = (f"x{i}", *_of_domain(f"adaptors.{i}", tensors))
        self.plan.append(Step(self._segment("adaptors", graph), inputs, (f"a{i}",)))

    def exit(self, i: int, exit: Exit, height: int) -> None:
        """Features and classifier apart: a device may run the first, and its host the second."""
        channels, features = exit.adaptor.cin, 2 * exit.width
        graph = Graph(f"exit_{channels}x{height}_{exit.width}x{exit.adaptor.side}")
        x = graph.input("x", (BATCH, channels, height, height))
        maps = (exit.width, channels)
        shapes: dict[str, Shape] = {"down": maps, "around": maps, "down_bias": (exit.width,)}
        graph.domain_inputs(shapes)
        graph.output(graph.exit_features(x, exit, height), "features", (BATCH, features))
        inputs = (f"x{i + 1}", *_of_domain(f"exits.{i}", shapes))
        self.plan.append(Step(self._segment("adaptors", graph), inputs, (f"e{i}",)))
        step = self._classifier(f"classifier_{features}", f"e{i}", f"exits.{i}", features, CARRY)
        self._answer = f"logits{i}"
        self.plan.append(step._replace(outputs=(self._answer,), exit=True))

    def block(self, at: _Place, added: _Added) -> None:
        step = Step(self._block(at, run=True), at.reads, (f"x{at.i + 1}",), at.i)
        if added.bypass is not None:
            name = self._bypass(at, added.bypass)
            tensors = _of_domain(f"substitutes.{at.i}", added.bypass.domain_tensors())
            step = step._replace(skip=name, skip_inputs=(*at.reads, *tensors))
        elif added.closable:
            step = step._replace(skip=self._block(at, run=False), skip_inputs=at.reads)
        self.plan.append(step)
        flops, skip_flops = at.block.flops(at.height), None
        if added.closable:
            skip_flops = flops.shortcut + (0 if added.bypass is None else added.bypass.flops)
        self.blocks.append(BlockRecord(at.block.name, flops.branch + flops.shortcut, skip_flops))

    def _block(self, at: _Place, run: bool) -> str:
        """The block, or what is left of it where it is closed."""
        graph = Graph(f"{'block' if run else 'skip'}_{at.i:02d}")
        block = at.block
        x = graph.input("x", (BATCH, block.in_channels, at.height, at.height))
        added = None
        if at.side is not None:
            a = graph.input("a", (BATCH, block.out_channels, at.side, at.side))
            added = graph.upsample(a, at.out_height // at.side)
        y = graph.block(x, block, added, name=f"block_{at.i:02d}", run=run)
        graph.output(y, "y", (BATCH, block.out_channels, at.out_height, at.out_height))
        return self._segment("backbone", graph)

    def _bypass(self, at: _Place, bypass: LowRankBypass) -> str:
        """x + upsampled (a + c): what is done in the place of a closed block whose shortcut is its input."""
        side, channels = bypass.side, bypass.adaptor.cin
        graph = Graph(f"skip_{channels}x{at.height}_{side}")
        shape: Shape = (BATCH, channels, at.height, at.height)
        x, a = graph.input("x", shape), graph.input("a", (BATCH, channels, side, side))
        graph.domain_inputs(_shapes(bypass.domain_tensors()))
        c = graph.bypass(x, bypass, at.height)
        added = graph.upsample(graph.node("Add", [a, c]), at.height // side)
        graph.output(graph.node("Add", [x, added]), "y", shape)
        return self._segment("adaptors", graph)

    def tail(self, backbone: Backbone, height: int) -> None:
        graph = Graph("tail")
        x = graph.input("x", (BATCH, backbone.blocks[-1].out_channels, height, height))
        graph.output(graph.tail(x, backbone.tail), "features", (BATCH, backbone.feature_size))
        self.plan.append(Step(self._segment("backbone", graph), (f"x{len(backbone.blocks)}",), ("features",)))

    def head(self, features: int) -> None:
        self.plan.append(self._classifier("head", "features", "head", features, LAST_CARRY))

    def _classifier(self, name: str, reads: str, owner: str, features: int, part: float) -> Step:
        """The step that answers ``LOGITS`` from the value called ``reads``, with the tensors of ``owner`` and the
        ``part`` that is carried on of what the last exit answered."""
        graph = Graph(name if self._answer is None else f"{name}_carry")
        x = graph.input("features", (BATCH, features))
        shapes: dict[str, Shape] = {"mean": (features,), "weight": ("classes", features), "bias": ("classes",)}
        graph.domain_inputs(shapes)
        inputs, before = (reads, *_of_domain(owner, shapes)), None
        if self._answer is not None:
            before = graph.input("before", (BATCH, "classes"))
            inputs = (*inputs, self._answer)
        graph.output(graph.head(x, before, part), "logits", (BATCH, "classes"))
        return Step(self._segment("adaptors", graph), inputs, (LOGITS,))


def _shapes(tensors: dict[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _of_domain(owner: str, tensors: dict[str, Tensor] | dict[str, Shape]) -> list[str]:
    """The plan's names of tensors of a domain."""
    return [f"{DOMAIN}{owner}.{name}" for name in tensors]
