"""Joining a plan: which steps become one subgraph, and which values may share a buffer."""

import numpy as np
import pytest
import synthetic_bundle

from da3.runtime.bundle.bundle import Bundle
from da3.runtime.errors import DomainError
from da3.runtime.records import Step, Value
from da3.runtime.schedule.layout import DOUBLED_BYTES, free_sizes, join_plan, whole_plan


@pytest.fixture
def manifest(built):
    with Bundle(built[0]) as bundle:
        yield bundle.manifest


def names(subgraph):
    return [step.segment for step in subgraph.steps]


def grown(manifest, *segments):
    """The manifest with segments too large to be held twice."""
    files = dict(manifest.files)
    for segment in segments:
        file = manifest.segments[segment].file
        files[file] = files[file]._replace(bytes=DOUBLED_BYTES + 1)
    return manifest._replace(files=files)


def test_a_cpu_gets_a_call_for_each_gated_block(manifest):
    layout = join_plan(manifest, looks_ahead=False)
    assert [names(call.subgraph) for call in layout.calls] == [
        ["stem", "adaptor", "block_0"],
        ["adaptor", "block_1"],
        ["adaptor", "block_2", "tail", "head"],
    ]
    assert [call.skip and names(call.skip) for call in layout.calls] == [
        None,
        ["adaptor", "skip"],
        ["adaptor", "shifted", "tail", "head"],
    ]
    assert [(call.gate, call.block) for call in layout.calls] == [(None, None), ("g1", 1), ("g2", 2)]
    assert layout.gates == ("g1", "g2")
    assert set(layout.values) == {"image", "x1", "g1", "x2", "g2", "logits"}
    assert len(layout.subgraphs) == 5


def test_what_is_large_is_not_held_twice(manifest):
    layout = join_plan(grown(manifest, "tail"), looks_ahead=False)
    assert [names(call.subgraph) for call in layout.calls][2:] == [["adaptor", "block_2"], ["tail", "head"]]


def test_a_gpu_has_a_gate_computed_a_block_ahead(manifest):
    layout = join_plan(manifest, looks_ahead=True)
    assert [names(call.subgraph) for call in layout.calls] == [
        ["stem", "adaptor"],  # writes g1
        ["block_0", "adaptor"],
        ["block_1", "adaptor"],  # whether or not the block runs
        ["block_2"],
        ["tail"],
        ["head"],
    ]
    assert [call.subgraph.host for call in layout.calls] == [False] * 5 + [True]
    assert layout.fetched == ["g1", "g2", "features"]
    written = {name: i for i, call in enumerate(layout.calls) for name in call.subgraph.outputs}
    for i, call in enumerate(layout.calls):
        if call.gate is not None:
            assert names(call.skip) == {1: ["skip", "adaptor"], 2: ["shifted"]}[call.block]
            assert i - written[call.gate] >= 2, "nothing to do while the gate is copied"


@pytest.mark.parametrize("looks_ahead", [False, True])
@pytest.mark.parametrize("readable", [(), ("x1", "a2", "features")])
def test_every_value_is_there_when_it_is_read(manifest, looks_ahead, readable):
    layout = join_plan(manifest, looks_ahead, readable)
    held = {layout.buffers["image"]: "image"}
    for call in layout.calls:
        needed = [n for n in call.subgraph.inputs if not n.startswith("domain:")]
        for name in needed + ([call.gate] if call.gate else []):
            assert held[layout.buffers[name]] == name
        for name in call.subgraph.outputs:
            buffer = layout.buffers[name]
            assert buffer not in {layout.buffers[n] for n in needed}, "written while it is read"
            held[buffer] = name
        if call.skip is not None:
            assert call.skip.outputs == call.subgraph.outputs
            assert [n for n in call.skip.inputs if not n.startswith("domain:")] == needed
            extra = set(call.skip.inputs) - set(call.subgraph.inputs)
            assert extra == ({"domain:substitutes.2.shift"} if call.block == 2 else set())
    for name in layout.readable:
        assert held[layout.buffers[name]] == name
    assert set(layout.readable) == {"logits", *readable}


def test_buffers_are_shared(manifest):
    layout = join_plan(manifest, looks_ahead=True)
    pictures = [name for name, shape in layout.values.items() if len(shape) == 4 and name != "image"]
    assert len({layout.buffers[name] for name in pictures}) < len(pictures)


def test_unknown_values_are_refused(manifest):
    with pytest.raises(DomainError, match="no value 'nope' in the plan; it has: image, x0"):
        join_plan(manifest, False, ("nope",))
    with pytest.raises(DomainError, match="no value 'domain:head.bias'"):
        join_plan(manifest, False, ("domain:head.bias",))


def test_a_plan_without_gates_is_one_subgraph(manifest):
    plan = tuple(step.always for step in manifest.plan)
    (call,) = join_plan(manifest._replace(plan=plan), looks_ahead=False).calls
    assert call.subgraph == whole_plan(manifest)
    device, host = join_plan(manifest._replace(plan=plan), looks_ahead=True).calls
    assert names(device.subgraph) == names(whole_plan(manifest))[:-1] and not device.subgraph.host
    assert names(host.subgraph) == ["head"] and host.subgraph.host


def test_adaptors_behind_a_gated_block_run_with_it_up_to_the_next_gate(manifest):
    """What has weights of its own is not held twice, and a gate that is read next is not made to wait."""
    adaptor = [f"domain:adaptors.0.{tensor}" for tensor in TENSORS]
    plan = (
        Step("stem", ("image",), ("x0",)),
        Step("adaptor", ("x0", *adaptor), ("a0", "g1")),
        Step("block_1", ("x0", "a0"), ("x1",), 1, "g1", "skip", ("x0", "a0")),
        Step("adaptor", ("x1", *adaptor), ("a1", "g2")),
        Step("adaptor", ("x1", *adaptor), ("a2", "g3")),
        Step("block_2", ("x1", "a2"), ("x2",), 2, "g2", "skip", ("x1", "a2")),
        Step("block_0", ("x2", "a1"), ("x3",)),
        Step("adaptor", ("x3", *adaptor), ("a3", "g4")),
        Step("block_1", ("x3", "a3"), ("x4",), 1, "g4", "skip", ("x3", "a3")),
        Step("tail", ("x4",), ("features",)),
        Step("head", ("features", "domain:head.weight", "domain:head.bias"), ("logits",)),
    )
    layout = join_plan(manifest._replace(plan=plan), looks_ahead=True)
    assert [names(call.subgraph) for call in layout.calls] == [
        ["stem", "adaptor"],
        ["block_1", "adaptor"],
        ["adaptor"],
        ["block_2"],
        ["block_0", "adaptor"],
        ["block_1"],
        ["tail"],
        ["head"],
    ]


def test_one_step_keeps_its_segments_names(manifest):
    call = join_plan(manifest, looks_ahead=True).calls[3]
    assert call.subgraph.segment == manifest.segments["block_2"] and call.subgraph.inputs == ("x2", "a2")
    joined = join_plan(manifest, looks_ahead=True).calls[0].subgraph
    assert joined.segment.inputs[0] == Value("image", ("batch", 3, 16, 16)) and joined.segment.file == ""


def test_a_gated_block_whose_gate_came_long_before(manifest):
    """Nothing between the gate's writer and its block: the block is still a subgraph of its own."""
    plan = (
        Step("stem", ("image",), ("x0",)),
        Step("adaptor", ("x0", *(f"domain:adaptors.0.{t}" for t in TENSORS)), ("a0", "g1")),
        Step("block_1", ("x0", "a0"), ("x1",), 1, "g1", "skip", ("x0", "a0")),
        Step("tail", ("x1",), ("features",)),
        Step("head", ("features", "domain:head.weight", "domain:head.bias"), ("logits",)),
    )
    layout = join_plan(manifest._replace(plan=plan), looks_ahead=True)
    assert [names(c.subgraph) for c in layout.calls] == [["stem", "adaptor"], ["block_1"], ["tail"], ["head"]]


TENSORS = ("down", "up", "gate_weight", "gate_bias")


def test_free_sizes(manifest):
    layout = join_plan(manifest, looks_ahead=False)
    weights = {k: np.asarray(v) for k, v in synthetic_bundle.random_weights(classes=7).items()}
    assert free_sizes(layout, weights) == {"classes": 7}
