"""The network of one domain as an ordinary ONNX model, for any runtime: its weights are constants in it.

Many runtimes lack control flow, so there is none. Every exit is computed, and each image gets the answer of the one
where it would have left; where a model has gates (format 1), a block and what stands in for it are both computed, and
each image takes the one that its gate chooses. The answers are the bundle's, and no time is saved by either. Blocks
that the domain closes are left out.
"""

import hashlib
from typing import Any, Dict, List, Union

import numpy as np

from ..bundle.bundle import BundleContents
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS, exit_steps, with_skipped
from ..records import Array, Domain, Segment, Step, Value
from ..schedule.decisions import leaving, threshold
from ..schedule.layout import whole_plan
from .joining import Piece, joined, pruned, read_piece
from .model import Info, Model, Node, unused_name


def whole_model(bundle: BundleContents, domain: Domain, gated: bool = False) -> Model:
    """image (batch, 3, S, S) float32, preprocessed -> logits (batch, classes) of `domain`, which fits the bundle.

    gated: blocks are skipped, and answers are those of exits, where the domain has it so. Otherwise all blocks run, and
    the last answer is taken. Raises BundleError if a file is damaged or is not what the manifest says of it.
    """
    whole = whole_plan(bundle.manifest, domain.closed if gated else ())
    if gated and domain.gated:
        pieces = _gated_pieces(bundle, threshold(domain.theta))
    else:
        pieces = [read_piece(step, bundle) for step in whole.steps]
    if gated:
        pieces += _exits(bundle, domain, pieces)
    weights = {DOMAIN + name: array for name, array in domain.weights.items()}
    free: Dict[Union[int, str], int] = {}  # what the dimensions are that the domain sets: its classes
    for name, value in zip(whole.inputs, whole.segment.inputs):
        if name.startswith(DOMAIN):
            free.update((n, size) for n, size in zip(value.shape, weights[name].shape) if isinstance(n, str))
    inputs = [Value(IMAGE, v.shape) for name, v in zip(whole.inputs, whole.segment.inputs) if name == IMAGE]
    outputs = [
        Value(LOGITS, tuple(free.get(n, n) for n in v.shape))
        for name, v in zip(whole.outputs, whole.segment.outputs)
        if name == LOGITS
    ]
    ends = Segment("da3", "", tuple(inputs), tuple(outputs))
    model = joined(pieces, ends, "%s: domain %s" % (bundle.path, domain.name))
    model.weights.update(weights)
    return pruned(without_repeats(model))


def _gated_pieces(bundle: BundleContents, theta: float) -> List[Piece]:
    """Every step; one with a gate is followed by what is done in its place, and by a choice between the two."""
    plan = bundle.manifest.plan
    taken = {name for step in with_skipped(plan) for name in step.inputs + step.outputs}
    pieces: List[Piece] = []
    for step in plan:
        if step.gate is None:
            pieces.append(read_piece(step, bundle))
            continue
        run, skipped = (
            one._replace(outputs=tuple(unused_name("%s/%s" % (name, end), taken) for name in one.outputs))
            for one, end in ((step.always, "run"), (step.skipped, "skipped"))
        )
        pieces += [read_piece(run, bundle), read_piece(skipped, bundle)]
        pieces.append(_choice(step, run, skipped, pieces[-2], theta))
    return pieces


def _choice(step: Step, run: Step, skipped: Step, ran: Piece, theta: float) -> Piece:
    """For each image, the outputs of `run` where its gate's logit is above theta, those of `skipped` elsewhere."""
    assert step.gate is not None
    gate = Value("gate", (BATCH,))
    ends = [[Value(kind + v.name, v.shape) for v in ran.segment.outputs] for kind in ("run/", "skipped/", "chosen/")]
    nodes = [Node("Greater", ["gate", "theta"], ["above"])]
    weights = {"theta": np.array(theta, np.float32)}
    for one, other, chosen in zip(*ends):
        rank = len(chosen.shape)
        weights["shape_%d" % rank] = np.array([-1] + [1] * (rank - 1), np.int64)
        condition = "above/" + chosen.name
        nodes.append(Node("Reshape", ["above", "shape_%d" % rank], [condition]))
        nodes.append(Node("Where", [condition, one.name, other.name], [chosen.name]))
    inputs = [gate] + ends[0] + ends[1]
    infos = [[Info(v.name, np.dtype(np.float32), v.shape) for v in values] for values in (inputs, ends[2])]
    model = Model(nodes, weights, infos[0], infos[1], {"": ran.model.opsets[""]}, ir_version=ran.model.ir_version)
    segment = Segment("choice", "", tuple(inputs), tuple(ends[2]))
    return Piece(Step("choice", (step.gate,) + run.outputs + skipped.outputs, step.outputs), segment, model)


def _exits(bundle: BundleContents, domain: Domain, pieces: List[Piece]) -> List[Piece]:
    """The choices between each exit's answer and the later ones, from the last exit to the first. The piece in `pieces`
    that gives the last answer is given another name to write, where there is a choice."""
    rules = [(step, rule) for step, rule in zip(exit_steps(bundle.manifest.plan), domain.exits)]
    rules = [(step, rule) for step, rule in rules if rule.threshold is not None]
    if not rules:
        return []
    plan = bundle.manifest.plan
    taken = {name for step in with_skipped(plan) for name in step.inputs + step.outputs}
    later = unused_name("%s/last" % LOGITS, taken)
    for number, piece in enumerate(pieces):
        outputs = tuple(later if name == LOGITS else name for name in piece.step.outputs)
        inputs = tuple(later if name == LOGITS else name for name in piece.step.inputs)
        pieces[number] = piece._replace(step=piece.step._replace(inputs=inputs, outputs=outputs))
    choices: List[Piece] = []
    for step, rule in reversed(rules):
        answer = step.outputs[0]
        chosen = LOGITS if step is rules[0][0] else unused_name("%s/chosen" % answer, taken)
        writer = next(piece for piece in pieces if piece.step.outputs == (answer,))
        choices.append(_leave(writer, answer, later, chosen, *leaving(rule)))
        later = chosen
    return choices


def _leave(writer: Piece, answer: str, later: str, chosen: str, scale: float, limit: float) -> Piece:
    """For each image, `answer` where its largest probability is above the threshold, else `later`; see `leaves`."""
    shape = writer.segment.outputs[0].shape
    nodes = [
        Node("ReduceMax", ["answer"], ["largest"], {"axes": [1], "keepdims": 1}),
        Node("Sub", ["answer", "largest"], ["below"]),
        Node("Mul", ["below", "scale"], ["scaled"]),
        Node("Exp", ["scaled"], ["shares"]),
        Node("ReduceSum", ["shares", "axes"], ["sum"], {"keepdims": 1}),
        Node("Less", ["sum", "limit"], ["leaves"]),
        Node("Where", ["leaves", "answer", "later"], ["chosen"]),
    ]
    weights: Dict[str, Array] = {
        "scale": np.array(scale, np.float32),
        "limit": np.array(limit, np.float32),
        "axes": np.array([1], np.int64),
    }
    values = [Value(name, shape) for name in ("answer", "later", "chosen")]
    infos = [Info(value.name, np.dtype(np.float32), shape) for value in values]
    model = Model(nodes, weights, infos[:2], infos[2:], {"": 13}, ir_version=writer.model.ir_version)
    step = Step("exit", (answer, later), (chosen,))
    return Piece(step, Segment("exit", "", tuple(values[:2]), tuple(values[2:])), model)


def without_repeats(model: Model) -> Model:
    """The model with one of each of its weights, and of its nodes that do the same to the same values.

    What runs a block and what skips it have the block's shortcut in common, for one.
    """
    names: Dict[str, str] = {}  # a value -> the one that it repeats
    equal_weights: Dict[Any, str] = {}
    for name, array in model.weights.items():
        content = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        names[name] = equal_weights.setdefault(content, name)
    outputs = {info.name for info in model.outputs}
    equal_nodes: Dict[Any, Node] = {}
    nodes: List[Node] = []
    for node in model.nodes:
        node = node.replace([names.get(name, name) for name in node.inputs])
        # An array's text leaves numbers out, and a graph's output must keep its name.
        if not any(isinstance(v, np.ndarray) for v in node.attributes.values()) and outputs.isdisjoint(node.outputs):
            attributes = repr(sorted(node.attributes.items()))
            first = equal_nodes.setdefault((node.op, node.domain, tuple(node.inputs), attributes), node)
            if first is not node and len(first.outputs) == len(node.outputs):
                names.update(zip(node.outputs, first.outputs))
                continue
        nodes.append(node)
    return model.replace(nodes)
