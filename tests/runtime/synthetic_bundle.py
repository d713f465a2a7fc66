"""A tiny bundle with random weights, and the same network in numpy to check the engine against.

stem -> block 0 (always runs) -> block 1 (gated) -> block 2 (gated) -> tail -> head, 16 px images, 4 channels;
one adaptor graph serves the three blocks, its weights being inputs. Where block 2 is skipped, a tensor of the domain is
added; where block 1 is, nothing.

`write_exits_bundle` writes the same network with exits after blocks 0 and 1 in the place of gates; blocks 1 and 2 can
be closed.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

SIZE, CHANNELS, MID = 16, 4, 3
BACKBONE_SHA = "b" * 64
ADAPTOR = {"grid": 1, "mid": MID}
PREPROCESSING = {"size": SIZE, "crop": 0.875, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}
BLOCKS = [
    {"name": "b0", "flops": 100, "skip_flops": None},
    {"name": "b1", "flops": 200, "skip_flops": 20},
    {"name": "b2", "flops": 300, "skip_flops": 0},
]
X = ["batch", CHANNELS, SIZE // 2, SIZE // 2]
VALUES = {
    "image": ["batch", 3, SIZE, SIZE],
    "x": X,
    "y": X,
    "a": ["batch", CHANNELS, 1, 1],
    "shift": [CHANNELS, 1, 1],
    "down": [CHANNELS, MID],
    "up": [MID, CHANNELS],
    "gate_weight": [MID, 1],
    "gate_bias": [1],
    "gate": ["batch"],
    "features": ["batch", CHANNELS],
    "weight": [CHANNELS, "classes"],
    "bias": ["classes"],
    "logits": ["batch", "classes"],
}


SHIFT = "substitutes.2.shift"
EXIT_WIDTH, CARRY = 6, 0.5
EXITS = (0, 1)  # the blocks behind which they are
EXIT_ADAPTOR = dict(ADAPTOR, exits=list(EXITS), exit_width=EXIT_WIDTH)
VALUES.update(
    {
        "e": ["batch", EXIT_WIDTH],
        "exit_down": [CHANNELS, EXIT_WIDTH],
        "exit_bias": [EXIT_WIDTH],
        "exit_weight": [EXIT_WIDTH, "classes"],
        "carry": ["batch", "classes"],
    }
)


class Backbone:
    """The frozen weights, and the numpy reference."""

    def __init__(self, seed=0):
        rng = np.random.RandomState(seed)
        self.stem = rng.normal(0, 0.5, (CHANNELS, 3, 3, 3)).astype(np.float32)
        self.blocks = [rng.normal(0, 0.3, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32) for _ in BLOCKS]

    def reference(self, images, weights, theta=0.0, gated=True, gates=None):
        """(logits, ran) for float32 (B, 3, SIZE, SIZE), one sample at a time, in the clearest way."""
        logits, ran = [], []
        for image in images:
            x = np.maximum(conv(image, self.stem, 2), 0)
            gate, row = None, []
            for i, kernel in enumerate(self.blocks):
                hidden = np.maximum(x.mean((1, 2)) @ weights[f"adaptors.{i}.down"], 0)
                added = (hidden @ weights[f"adaptors.{i}.up"])[:, None, None]
                runs = i == 0 or not gated or gate > np.float32(theta)
                if gates is not None and i in gates:
                    runs = gates[i]
                gate = hidden @ weights[f"adaptors.{i}.gate_weight"] + weights[f"adaptors.{i}.gate_bias"]
                instead = weights[SHIFT] if i == 2 else 0
                x = np.maximum(x + added + (conv(x, kernel, 1) if runs else instead), 0)
                row.append(bool(runs))
            logits.append(x.mean((1, 2)) @ weights["head.weight"] + weights["head.bias"])
            ran.append(row)
        return np.array(logits, np.float32), np.array(ran)

    def answers(self, images, weights, closed=()):
        """float32 (exits + 1, B, classes): what each exit answers, and the end, where nobody leaves."""
        answers = []
        for image in images:
            x = np.maximum(conv(image, self.stem, 2), 0)
            rows, carry = [], 0
            for i, kernel in enumerate(self.blocks):
                hidden = np.maximum(x.mean((1, 2)) @ weights[f"adaptors.{i}.down"], 0)
                added = (hidden @ weights[f"adaptors.{i}.up"])[:, None, None]
                instead = weights[SHIFT] if i == 2 else 0
                x = np.maximum(x + added + (instead if i in closed else conv(x, kernel, 1)), 0)
                if i in EXITS:
                    e = np.maximum(x.mean((1, 2)) @ weights[f"exits.{i}.down"] + weights[f"exits.{i}.down_bias"], 0)
                    carry = e @ weights[f"exits.{i}.weight"] + weights[f"exits.{i}.bias"] + CARRY * carry
                    rows.append(carry)
            rows.append(x.mean((1, 2)) @ weights["head.weight"] + weights["head.bias"] + CARRY * carry)
            answers.append(rows)
        return np.array(answers, np.float32).swapaxes(0, 1)


def confidence(logits, temperature=1.0):
    """(B, classes) -> (B,), the largest probability, in float64."""
    exp = np.exp((logits - logits.max(1, keepdims=True)).astype(np.float64) / temperature)
    return 1 / exp.sum(1)


def expected(answers, thresholds, closed=()):
    """(logits, ran, left) of what `Backbone.answers` gives, where pictures leave at these thresholds (None: nobody)."""
    end = len(thresholds)
    left = np.full(answers.shape[1], end)
    for number in reversed(range(end)):
        if thresholds[number] is not None:
            left[confidence(answers[number]) > thresholds[number]] = number
    last = np.array([*EXITS, len(BLOCKS)])[left]  # the last block that was come by
    ran = np.array([[i <= stop and i not in closed for i in range(len(BLOCKS))] for stop in last])
    return answers[left, np.arange(len(left))], ran, left


def conv(x, kernel, stride):
    """3x3 convolution, padding 1: (C, H, W) -> (C', H/stride, W/stride)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((kernel.shape[0], *x.shape[1:]), np.float32)
    for i in range(3):
        for j in range(3):
            patch = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            out += np.einsum("oc,chw->ohw", kernel[:, :, i, j], patch)
    return out[:, ::stride, ::stride]


def random_weights(classes, seed=0):
    """A domain's tensors; gate logits are about half of them above 0."""
    rng = np.random.RandomState(seed)
    weights = {
        "head.weight": rng.normal(0, 1, (CHANNELS, classes)),
        "head.bias": rng.normal(0, 1, (classes,)),
    }
    for i in range(len(BLOCKS)):
        weights[f"adaptors.{i}.down"] = rng.normal(0, 1, (CHANNELS, MID))
        weights[f"adaptors.{i}.up"] = rng.normal(0, 0.3, (MID, CHANNELS))
        weights[f"adaptors.{i}.gate_weight"] = rng.normal(0, 1, (MID, 1))
        weights[f"adaptors.{i}.gate_bias"] = np.zeros(1)
    weights[SHIFT] = rng.normal(0, 1, (CHANNELS, 1, 1))
    for i in EXITS:
        weights[f"exits.{i}.down"] = rng.normal(0, 0.5, (CHANNELS, EXIT_WIDTH))
        weights[f"exits.{i}.down_bias"] = rng.normal(0, 0.5, (EXIT_WIDTH,))
        weights[f"exits.{i}.weight"] = rng.normal(0, 0.5, (EXIT_WIDTH, classes))
        weights[f"exits.{i}.bias"] = rng.normal(0, 0.5, (classes,))
    # As float16, so that what is stored is what the reference computes with.
    weights = {k: v.astype(np.float16).astype(np.float32) for k, v in weights.items()}
    images = np.random.RandomState(9).normal(0, 1, (64, 3, SIZE, SIZE)).astype(np.float32)
    for i in range(1, len(BLOCKS)):
        weights[f"adaptors.{i - 1}.gate_bias"][:] = -_median_gate(weights, images, i - 1)
    return weights


def _median_gate(weights, images, i):
    backbone, seen = Backbone(), []
    for image in images:
        x = np.maximum(conv(image, backbone.stem, 2), 0)
        for j in range(i + 1):
            hidden = np.maximum(x.mean((1, 2)) @ weights[f"adaptors.{j}.down"], 0)
            if j == i:
                seen.append(float((hidden @ weights[f"adaptors.{j}.gate_weight"])[0]))
            x = np.maximum(
                x + (hidden @ weights[f"adaptors.{j}.up"])[:, None, None] + conv(x, backbone.blocks[j], 1),
                0,
            )
    return np.float32(np.float16(np.median(seen)))


def images(count, seed=1):
    """float32 (count, 3, SIZE, SIZE), already preprocessed."""
    return np.random.RandomState(seed).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32)


def write_bundle(folder, domains=("flowers", "signs"), seed=0):
    """Write the bundle; returns {domain name: its weights}."""
    folder = Path(folder)
    graphs = backbone_graphs(seed)
    write_graphs(folder, graphs)
    write_manifest(folder, manifest(graphs, folder))
    weights = {}
    for number, name in enumerate(domains):
        weights[name] = random_weights(classes=3 + number, seed=number)
        write_domain(folder / "domains" / name, name, weights[name])
    return weights


def write_exits_bundle(folder, domains=("flowers", "signs"), seed=0):
    """Write the bundle with exits, at which nobody leaves yet; returns {domain name: its weights}."""
    folder = Path(folder)
    graphs = dict(backbone_graphs(seed), **exit_graphs())
    write_graphs(folder, graphs)
    write_manifest(folder, exits_manifest(graphs, folder))
    weights = {}
    for number, name in enumerate(domains):
        weights[name] = random_weights(classes=3 + number, seed=number)
        write_exits_domain(folder / "domains" / name, name, weights[name])
    return weights


def write_graphs(folder, graphs):
    for name, model in graphs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(model.SerializeToString())


def exit_graphs():
    """What the bundle with exits has beside the others, or in their place."""
    classify = [("MatMul", ["e", "exit_weight"], "m", {}), ("Add", ["m", "bias"], "{}", {})]
    head = [("MatMul", ["features", "weight"], "m", {}), ("Add", ["m", "bias"], "{}", {})]
    carry = [("Mul", ["carry", "half"], "c", {}), ("Add", ["own", "c"], "logits", {})]
    half = {"half": np.array(CARRY, np.float32)}

    def ending(nodes, name):
        return [
            (op, inputs, name if output == "{}" else output, attributes) for op, inputs, output, attributes in nodes
        ]

    return {
        "adaptors/adaptor.onnx": _graph(
            ["x", "down", "up"],
            ["a"],
            [
                ("ReduceMean", ["x"], "p", {"axes": [2, 3], "keepdims": 0}),
                ("MatMul", ["p", "down"], "d", {}),
                ("Relu", ["d"], "h", {}),
                ("MatMul", ["h", "up"], "u", {}),
                ("Unsqueeze", ["u", "axes"], "a", {}),
            ],
            {"axes": np.array([2, 3])},
        ),
        "adaptors/exit.onnx": _graph(
            ["x", "exit_down", "exit_bias"],
            ["e"],
            [
                ("ReduceMean", ["x"], "p", {"axes": [2, 3], "keepdims": 0}),
                ("MatMul", ["p", "exit_down"], "d", {}),
                ("Add", ["d", "exit_bias"], "b", {}),
                ("Relu", ["b"], "e", {}),
            ],
            {},
        ),
        "adaptors/classifier.onnx": _graph(["e", "exit_weight", "bias"], ["logits"], ending(classify, "logits"), {}),
        "adaptors/classifier_carry.onnx": _graph(
            ["e", "exit_weight", "bias", "carry"], ["logits"], ending(classify, "own") + carry, half
        ),
        "adaptors/head_carry.onnx": _graph(
            ["features", "weight", "bias", "carry"], ["logits"], ending(head, "own") + carry, half
        ),
    }


def backbone_graphs(seed=0):
    """The graphs of the bundle with gates, by file name."""
    backbone = Backbone(seed)
    graphs = {
        "backbone/stem.onnx": _graph(
            ["image"],
            ["x"],
            [("Conv", ["image", "k"], "c", {"strides": [2, 2], "pads": [1] * 4}), ("Relu", ["c"], "x", {})],
            {"k": backbone.stem},
        ),
        "backbone/skip.onnx": _graph(["x", "a"], ["y"], [("Add", ["x", "a"], "s", {}), ("Relu", ["s"], "y", {})], {}),
        "backbone/tail.onnx": _graph(
            ["x"], ["features"], [("ReduceMean", ["x"], "features", {"axes": [2, 3], "keepdims": 0})], {}
        ),
        "adaptors/shifted.onnx": _graph(
            ["x", "a", "shift"],
            ["y"],
            [("Add", ["x", "a"], "s", {}), ("Add", ["s", "shift"], "t", {}), ("Relu", ["t"], "y", {})],
            {},
        ),
        "adaptors/adaptor.onnx": _graph(
            ["x", "down", "up", "gate_weight", "gate_bias"],
            ["a", "gate"],
            [
                ("ReduceMean", ["x"], "p", {"axes": [2, 3], "keepdims": 0}),
                ("MatMul", ["p", "down"], "d", {}),
                ("Relu", ["d"], "h", {}),
                ("MatMul", ["h", "up"], "u", {}),
                ("Unsqueeze", ["u", "axes"], "a", {}),
                ("MatMul", ["h", "gate_weight"], "g", {}),
                ("Add", ["g", "gate_bias"], "gb", {}),
                ("Squeeze", ["gb", "last"], "gate", {}),
            ],
            {"axes": np.array([2, 3]), "last": np.array([1])},
        ),
        "adaptors/head.onnx": _graph(
            ["features", "weight", "bias"],
            ["logits"],
            [("MatMul", ["features", "weight"], "m", {}), ("Add", ["m", "bias"], "logits", {})],
            {},
        ),
    }
    for i, kernel in enumerate(backbone.blocks):
        graphs[f"backbone/block_{i}.onnx"] = _graph(
            ["x", "a"],
            ["y"],
            [
                ("Conv", ["x", "k"], "c", {"pads": [1] * 4}),
                ("Add", ["c", "x"], "s", {}),
                ("Add", ["s", "a"], "t", {}),
                ("Relu", ["t"], "y", {}),
            ],
            {"k": kernel},
        )
    return graphs


def exits_manifest(graphs, folder):
    content = manifest(graphs, folder)
    plan, carried = [], []
    for step in content["plan"][:-1]:
        step.pop("gate", None)
        if step["segment"] == "adaptor":
            step.update(inputs=step["inputs"][:3], outputs=step["outputs"][:1])
        plan.append(step)
        i = step.get("block")
        if i in EXITS:
            tensors = [f"domain:exits.{i}.{t}" for t in ("down", "down_bias", "weight", "bias")]
            plan.append({"segment": "exit", "inputs": [f"x{i + 1}", *tensors[:2]], "outputs": [f"e{i}"]})
            classifier = {
                "segment": "classifier_carry" if carried else "classifier",
                "inputs": [f"e{i}", *tensors[2:], *carried],
                "outputs": [f"logits{i}"],
                "exit": True,
            }
            plan.append(classifier)
            carried = classifier["outputs"]
    head = dict(content["plan"][-1], segment="head_carry")
    plan.append(dict(head, inputs=head["inputs"] + carried))
    return dict(content, format=2, adaptor=EXIT_ADAPTOR, plan=plan)


def manifest(graphs, folder):
    segments = {
        Path(name).stem: {
            "file": name,
            "inputs": [{"name": v.name, "shape": VALUES[v.name]} for v in model.graph.input],
            "outputs": [{"name": v.name, "shape": VALUES[v.name]} for v in model.graph.output],
        }
        for name, model in graphs.items()
    }
    plan = [{"segment": "stem", "inputs": ["image"], "outputs": ["x0"]}]
    for i in range(len(BLOCKS)):
        tensors = [f"domain:adaptors.{i}.{t}" for t in ("down", "up", "gate_weight", "gate_bias")]
        plan.append({"segment": "adaptor", "inputs": [f"x{i}", *tensors], "outputs": [f"a{i}", f"g{i + 1}"]})
        step = {
            "segment": f"block_{i}",
            "inputs": [f"x{i}", f"a{i}"],
            "outputs": [f"x{i + 1}"],
            "block": i,
        }
        if i == 1:
            step.update(gate="g1", skip="skip")
        elif i == 2:
            step.update(gate="g2", skip="shifted", skip_inputs=["x2", "a2", f"domain:{SHIFT}"])
        plan.append(step)
    plan.append({"segment": "tail", "inputs": [f"x{len(BLOCKS)}"], "outputs": ["features"]})
    plan.append(
        {
            "segment": "head",
            "inputs": ["features", "domain:head.weight", "domain:head.bias"],
            "outputs": ["logits"],
        }
    )
    return {
        "format": 1,
        "created_by": "tests",
        "backbone": {"arch": "synthetic", "sha256": BACKBONE_SHA},
        "preprocessing": PREPROCESSING,
        "adaptor": ADAPTOR,
        "blocks": BLOCKS,
        "segments": segments,
        "plan": plan,
        "files": {name: file_entry(folder / name) for name in graphs},
    }


def write_manifest(folder, content):
    (Path(folder) / "manifest.json").write_text(json.dumps(content, indent=1))


def read_manifest(folder):
    return json.loads((Path(folder) / "manifest.json").read_text())


def file_entry(path):
    data = Path(path).read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def write_domain(folder, name, weights, /, dtype=np.float16, **changes):
    """One domain folder; `changes` override entries of domain.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(save({k: v.astype(dtype) for k, v in weights.items()}))
    content = {
        "format": 1,
        "name": name,
        "classes": [f"{name}_{i}" for i in range(weights["head.bias"].shape[0])],
        "theta": 0.0,
        "gated": True,
        "backbone_sha256": BACKBONE_SHA,
        "size": SIZE,
        "adaptor": ADAPTOR,
        "metrics": {"val_accuracy": 0.5},
        "weights": dict(file_entry(folder / "weights.safetensors"), file="weights.safetensors"),
    }
    content.update(changes)
    (folder / "domain.json").write_text(json.dumps(content))
    return folder


def write_exits_domain(folder, name, weights, /, thresholds=(None, None), **changes):
    """One domain folder of format 2. thresholds: of its exits; temperatures are 1."""
    content = {
        "format": 2,
        "adaptor": EXIT_ADAPTOR,
        "closed": [],
        "exits": [{"threshold": t, "temperature": 1.0} for t in thresholds],
        "temperature": 1.0,
        "calibration": {},
    }
    folder = write_domain(folder, name, weights, **dict(content, **changes))
    described = json.loads((folder / "domain.json").read_text())
    described = {key: value for key, value in described.items() if key not in ("theta", "gated")}
    (folder / "domain.json").write_text(json.dumps(described))
    return folder


def _graph(inputs, outputs, nodes, constants):
    graph = helper.make_graph(
        [helper.make_node(op, i, [o], **attributes) for op, i, o, attributes in nodes],
        "segment",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, VALUES[n]) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, VALUES[n]) for n in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
