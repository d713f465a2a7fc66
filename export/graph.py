"""The traceable pieces of a bundle's graphs, written node by node: opset 13, dynamic batch, no tracing of Python.

A torch export would add nothing here but its own opset and names: a frozen network is a dozen node kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.backbones.split import Stem, Tail

OPSET, IR_VERSION = 13, 7
Shape = Sequence[int | str]


class Graph:
    """An ONNX graph under construction. Every method appends nodes and returns the name of its result."""

    def __init__(self, name: str):
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.inputs: list[tuple[str, Shape]] = []
        self.outputs: list[tuple[str, Shape]] = []

    def input(self, name: str, shape: Shape) -> str:
        self.inputs.append((name, shape))
        return name

    def output(self, value: str, name: str, shape: Shape) -> None:
        """Declare ``value`` an output called ``name``, renaming the node output that makes it."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, found in enumerate(names):
                    if found == value:
                        names[i] = name
        self.outputs.append((name, shape))

    def weight(self, name: str, array: np.ndarray) -> str:
        """A constant of the graph; the same name gives the same constant."""
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        result = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=result, **attributes))
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

    def block(
        self,
        x: str,
        block: Block,
        added: str | None,
        name: str,
        run: bool = True,
        gate: str | None = None,
        instead: str | None = None,
    ) -> str:
        """phi(F(x) + (S(x) + upsampled a)), or without F where ``run`` is off.

        With ``gate``, bool (B, 1, 1, 1), images whose gate is false get ``instead`` in the place of F(x), or nothing.
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
            if gate is not None:
                y = self.node("Where", [gate, y, instead or self.weight("nothing", np.float32(0))])
            y = self._add(y, rest)
        else:
            assert rest is not None, "a block without shortcut is never skipped"
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

    # -- pieces of a domain

    def adaptor(
        self, x: str, names: dict[str, str], cin: int, mid: int, cout: int, pool: int, side: int
    ) -> tuple[str, str | None]:
        """x (B, C, H, H) -> a (B, C', G, G) and the gate logit (B,) where ``names`` has a gate.

        ``names``: the graph's name of each domain tensor. Matrix products only: every TensorRT release takes those
        with weights that are inputs.
        """
        rows = self._rows(self._cell_means(x, pool), cin)
        h = self.node("Relu", [self.node("Gemm", [rows, names["down"], names["down_bias"]], transB=1)])
        a = self._cells(self.node("Gemm", [h, names["up"], names["up_bias"]], transB=1), cout, side)
        if "gate" not in names:
            return a, None
        cells = self.node("Reshape", [h, self._shape([-1, side * side, mid])])
        mean = self.node("ReduceMean", [cells], axes=[1], keepdims=0)  # (B, m)
        logit = self.node("Gemm", [mean, names["gate"], names["gate_bias"]])
        return a, self.node("Reshape", [logit, self._shape([-1])])

    def substitute(self, x: str, names: dict[str, str], channels: int, pool: int, side: int) -> str:
        """x (B, C, H, H) -> c (B, C, G, G), what is added in a skipped branch's place."""
        p = self._cell_means(x, pool)
        # Cells outside are not counted, so that the normalisation could be folded into the matrices.
        near = self.node("AveragePool", [p], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        v = self.node("Gemm", [self._rows(near, channels), names["around"], names["down_bias"]], transB=1)
        v = self.node("Gemm", [self._rows(p, channels), names["down"], v], transB=1)
        return self._cells(self.node("Gemm", [v, names["up"], names["up_bias"]], transB=1), channels, side)

    def _cell_means(self, x: str, pool: int) -> str:
        return self.node("AveragePool", [x], kernel_shape=[pool, pool], strides=[pool, pool]) if pool > 1 else x

    def _rows(self, p: str, channels: int) -> str:
        """A row for each cell of each image: products with a bias, which engines fuse with a ReLU."""
        return self.node("Reshape", [self.node("Transpose", [p], perm=[0, 2, 3, 1]), self._shape([-1, channels])])

    def _cells(self, rows: str, channels: int, side: int) -> str:
        """The reverse: (B * G * G, C) -> (B, C, G, G)."""
        image = self.node("Reshape", [rows, self._shape([-1, side, side, channels])])
        return self.node("Transpose", [image], perm=[0, 3, 1, 2])

    def decision(self, logit: str, theta: float) -> str:
        """Gate logits (B,) -> bool (B, 1, 1, 1), true where the block runs."""
        above = self.node("Greater", [logit, self.weight("theta", np.float32(theta))])
        return self.node("Reshape", [above, self._shape([-1, 1, 1, 1])])

    def head(self, features: str, names: dict[str, str]) -> str:
        """(B, F) with mean (F,), weight (classes, F) and bias (classes,) -> (B, classes)."""
        centred = self.node("Sub", [features, names["mean"]])
        return self.node("Gemm", [centred, names["weight"], names["bias"]], transB=1)

    def _shape(self, shape: list[int]) -> str:
        name = "shape_" + "_".join(str(n) for n in shape).replace("-1", "batch")
        return self.weight(name, np.array(shape, dtype=np.int64))

    def to_bytes(self) -> bytes:
        """The checked model, serialised."""

        def infos(values: list[tuple[str, Shape]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in values]

        graph = helper.make_graph(
            self.nodes, self.name, infos(self.inputs), infos(self.outputs), list(self.weights.values())
        )
        model = helper.make_model(
            graph, producer_name="da3", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data
