"""The traceable pieces of a bundle's graphs, written node by node: opset 13, dynamic batch, no tracing of Python.

A torch export would add nothing here but its own opset and names: a frozen network is a dozen node kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from da3.runtime.onnx_graph import AttributeValue, Info, Model, Node, write_model
from da3.runtime.records import Array, Shape, Value
from da3.toolchain.autograd import Block, FrozenConv
from da3.toolchain.backbones import Stem, Tail
from da3.toolchain.network import Adaptor, Exit, LowRankBypass

OPSET, IR_VERSION = 13, 7


def checked_bytes(model: Model) -> bytes:
    """The bytes of an ONNX file, in which onnx's own checker finds nothing wrong."""
    data = write_model(model)
    onnx.checker.check_model(data, full_check=True)
    return data


class Graph:
    """An ONNX graph under construction. Methods append nodes and return the name of their result."""

    def __init__(self, name: str):
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self._nodes: list[Node] = []
        self._weights: dict[str, Array] = {}

    def to_bytes(self) -> bytes:
        """The checked ONNX file; inputs and outputs are float32."""
        inputs, outputs = (
            [Info(value.name, np.dtype(np.float32), value.shape) for value in values]
            for values in (self.inputs, self.outputs)
        )
        return checked_bytes(
            Model(self._nodes, self._weights, inputs, outputs, {"": OPSET}, ir_version=IR_VERSION, name=self.name)
        )

    def input(self, name: str, shape: Shape) -> str:
        self.inputs.append(Value(name, shape))
        return name

    def domain_inputs(self, shapes: Mapping[str, Shape]) -> None:
        """Declare inputs that are tensors of a domain, by their short names."""
        self.inputs += [Value(name, shape) for name, shape in shapes.items()]

    def output(self, value: str, name: str, shape: Shape) -> None:
        """Declare ``value`` an output called ``name``, renaming the node output that makes it."""
        for node in self._nodes:
            node.inputs = [name if found == value else found for found in node.inputs]
            node.outputs = [name if found == value else found for found in node.outputs]
        self.outputs.append(Value(name, shape))

    def weight(self, name: str, array: Array | np.float32) -> str:
        """A constant of the graph; the same name gives the same constant."""
        self._weights[name] = np.ascontiguousarray(array)
        return name

    def node(self, kind: str, inputs: Iterable[str], **attributes: AttributeValue) -> str:
        result = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(Node(kind, inputs, [result], dict(sorted(attributes.items())), name=result))
        return result

    # -- pieces of a frozen backbone

    def conv(self, x: str, conv: FrozenConv, name: str) -> str:
        kernel = conv.weight.shape[-1]
        y = self.node(
            "Conv",
            [
                x,
                self.weight(f"{name}.weight", conv.weight.numpy()),
                self.weight(f"{name}.bias", conv.bias.numpy()),
            ],
            kernel_shape=[kernel, kernel],
            strides=[conv.stride] * 2,
            pads=list(conv.pads),
            group=conv.groups,
        )
        return self.activation(y, conv.activation)

    def activation(self, x: str, name: str | None) -> str:
        if name == "relu":
            return self.node("Relu", [x])
        if name == "relu6":
            low, high = (self.weight(n, np.float32(v)) for n, v in (("zero", 0.0), ("six", 6.0)))
            return self.node("Clip", [x, low, high])
        return x

    def stem(self, image: str, stem: Stem) -> str:
        x = self.conv(image, stem.conv, "stem")
        if stem.max_pool:
            x = self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        return x

    def block(self, x: str, block: Block, added: str | None, *, name: str, run: bool) -> str:
        """phi(F(x) + (S(x) + upsampled a)), or without F where ``run`` is off. ``added``: upsampled a, if there is one.

        What is not the branch is summed first, so that an engine can fuse the one remaining sum into the branch's
        last convolution.
        """
        rest = added
        if block.projection is not None:
            rest = self._add(self.conv(x, block.projection, f"{name}.projection"), added)
        elif block.has_shortcut:
            rest = self._add(x, added)
        if run:
            y = x
            for i, conv in enumerate(block.convs):
                y = self.conv(y, conv, f"{name}.{i}")
            y = self._add(y, rest)
        else:
            assert rest is not None, "a block without shortcut is never left out"
            y = rest
        return self.activation(y, block.activation)

    def _add(self, x: str, y: str | None) -> str:
        return x if y is None else self.node("Add", [x, y])

    def upsample(self, a: str, factor: int) -> str:
        """Repeat each cell factor x factor times."""
        if factor == 1:
            return a
        scales = self.weight(f"scales_{factor}", np.array([1, 1, factor, factor], dtype=np.float32))
        return self.node(
            "Resize",
            [a, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def tail(self, x: str, tail: Tail) -> str:
        if tail.conv is not None:
            x = self.conv(x, tail.conv, "tail")
        return self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)

    # -- pieces of a domain, whose tensors are inputs of the graph under their short names

    def adaptor(self, x: str, adaptor: Adaptor, height: int) -> str:
        """x (B, C, H, H), of ``height`` H -> a (B, C', G, G).

        Matrix products only: every TensorRT release takes those with weights that are inputs.
        """
        side = adaptor.side
        rows = self._rows(self._cell_means(x, height // side), adaptor.cin)
        h = self.node("Relu", [self.node("Gemm", [rows, "down", "down_bias"], transB=1)])
        return self._cells(self.node("Gemm", [h, "up", "up_bias"], transB=1), adaptor.cout, side)

    def exit_features(self, x: str, exit: Exit, height: int) -> str:
        """x (B, C, H, H), of ``height`` H -> f (B, 2 E)."""
        side = exit.adaptor.side
        p = self._cell_means(x, height // side)
        u = self.node("Relu", [self._with_neighbours(p, exit.adaptor.cin)])
        cells = self.node("Reshape", [u, self._shape([-1, side * side, exit.width])])
        ends = [self.node(kind, [cells], axes=[1], keepdims=0) for kind in ("ReduceMean", "ReduceMax")]
        return self.node("Concat", ends, axis=1)

    def bypass(self, x: str, bypass: LowRankBypass, height: int) -> str:
        """x (B, C, H, H), of ``height`` H -> c (B, C, G, G), what is added in a closed block's place."""
        side, channels = bypass.side, bypass.adaptor.cin
        v = self._with_neighbours(self._cell_means(x, height // side), channels)
        return self._cells(self.node("Gemm", [v, "up", "up_bias"], transB=1), channels, side)

    def _with_neighbours(self, p: str, channels: int) -> str:
        """p (B, C, G, G), with the tensors down, around and down_bias -> a row for each cell of each image."""
        # Cells outside are not counted, so that the normalisation could be folded into the matrices.
        near = self.node("AveragePool", [p], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        of_neighbours = self.node("Gemm", [self._rows(near, channels), "around", "down_bias"], transB=1)
        return self.node("Gemm", [self._rows(p, channels), "down", of_neighbours], transB=1)

    def _cell_means(self, x: str, pool: int) -> str:
        return self.node("AveragePool", [x], kernel_shape=[pool, pool], strides=[pool, pool]) if pool > 1 else x

    def _rows(self, p: str, channels: int) -> str:
        """A row for each cell of each image: products with a bias, which engines fuse with a ReLU."""
        return self.node("Reshape", [self.node("Transpose", [p], perm=[0, 2, 3, 1]), self._shape([-1, channels])])

    def _cells(self, rows: str, channels: int, side: int) -> str:
        """The reverse: (B * G * G, C) -> (B, C, G, G)."""
        image = self.node("Reshape", [rows, self._shape([-1, side, side, channels])])
        return self.node("Transpose", [image], perm=[0, 3, 1, 2])

    def head(self, features: str, before: str | None, part: float) -> str:
        """(B, F), with mean (F,), weight (classes, F) and bias (classes,) -> (B, classes).

        ``before``: what the exit before answered (B, classes), of which a ``part`` is carried on; None where there is
        none.
        """
        centred = self.node("Sub", [features, "mean"])
        logits = self.node("Gemm", [centred, "weight", "bias"], transB=1)
        if before is None:
            return logits
        carried = self.node("Mul", [before, self.weight("carry", np.float32(part))])
        return self.node("Add", [logits, carried])

    def _shape(self, shape: Sequence[int]) -> str:
        name = "shape_" + "_".join(str(n) for n in shape).replace("-1", "batch")
        return self.weight(name, np.array(shape, dtype=np.int64))
