"""The network of a domain as one ordinary model against the Runtime's answers."""

import numpy as np
import pytest
import synthetic_bundle
from graphs import checked, ort_run

from da3.runtime import Runtime
from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.whole import whole_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.records import ExitRule

SIZE = synthetic_bundle.SIZE


def answers(folder, name, images, with_gates, **changes):
    """(model, logits) of a domain of which some fields are changed."""
    with Bundle(folder) as bundle:
        domain = read_domain(bundle, name)._replace(**changes)
        model = whole_model(bundle, domain, gated=with_gates)
    return model, ort_run(checked(write_model(model)), {"image": images})[0]


@pytest.mark.parametrize("name", ["flowers", "signs"])
@pytest.mark.parametrize("batch", [1, 7])
def test_with_its_gates_it_answers_as_the_runtime_does(built, name, batch):
    images = synthetic_bundle.images(batch)
    model, found = answers(built[0], name, images, True)
    with Runtime(built[0]) as runtime:
        wanted = runtime.run_batch(images, name)
    np.testing.assert_allclose(found, wanted.logits, rtol=1e-4, atol=1e-5)
    if batch > 1:
        gated = wanted.blocks[:, 1:]
        assert (gated.any(axis=0) & ~gated.all(axis=0)).all(), "each gate must open for some images, not for others"
    assert [(i.name, i.shape) for i in model.inputs] == [("image", ("batch", 3, SIZE, SIZE))]
    assert [(i.name, i.shape) for i in model.outputs] == [("logits", ("batch", wanted.logits.shape[1]))]
    operators = {node.op for node in model.nodes}
    assert {"Greater", "Where"} <= operators and not {"If", "Loop"} & operators


@pytest.mark.parametrize("theta", [-1e9, 1e9])
def test_theta_decides(built, theta):
    images = synthetic_bundle.images(4)
    _, found = answers(built[0], "flowers", images, True, theta=theta)
    with Bundle(built[0]) as bundle, Runtime(bundle) as runtime:
        domain = read_domain(bundle, "flowers")._replace(name="other", theta=theta)
        runtime.load(domain)
        wanted = runtime.run_batch(images, "other")
    assert wanted.blocks[:, 1:].all() == (theta < 0)
    np.testing.assert_allclose(found, wanted.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("with_gates", "domain_gated"), [(False, True), (True, False)])
def test_without_gates_all_blocks_run(built, with_gates, domain_gated):
    images = synthetic_bundle.images(5)
    model, found = answers(built[0], "flowers", images, with_gates, gated=domain_gated)
    with Runtime(built[0]) as runtime:
        wanted = runtime.run_batch(images, "flowers", force_all_blocks=True).logits
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert not {"Greater", "Where", "Squeeze"} & {node.op for node in model.nodes}
    assert not any("gate" in name for name in model.weights), "what only gates need is left out"


def test_nothing_is_in_it_twice(built):
    model, _ = answers(built[0], "flowers", synthetic_bundle.images(1), True)
    contents = [(w.dtype.str, w.shape, w.tobytes()) for w in model.weights.values()]
    assert len(contents) == len(set(contents))
    calls = [(n.op, tuple(n.inputs), repr(sorted(n.attributes.items()))) for n in model.nodes]
    assert len(calls) == len(set(calls))
    assert sum(node.op == "Conv" for node in model.nodes) == 1 + len(synthetic_bundle.BLOCKS)


def test_what_it_is_written_as(built):
    model, _ = answers(built[0], "flowers", synthetic_bundle.images(1), True)
    read = read_model(write_model(model))
    assert read.opsets == {"": 13} and read.ir_version == 7 and read.name == "da3"
    assert all(array.dtype in (np.float32, np.int64) for array in read.weights.values())


@pytest.mark.parametrize("closed", [(), (2,)])
@pytest.mark.parametrize("chosen", ["both", "first", "second", "none"])
def test_each_image_has_the_answer_of_its_exit(built_with_exits, closed, chosen):
    folder, weights = built_with_exits
    images = synthetic_bundle.images(16)
    known = synthetic_bundle.Backbone().answers(images, weights["signs"], closed)
    medians = [float(np.median(synthetic_bundle.confidence(known[i]))) for i in (0, 1)]
    used = {"both": (0, 1), "first": (0,), "second": (1,), "none": ()}[chosen]
    thresholds = [medians[i] if i in used else None for i in (0, 1)]
    rules = tuple(ExitRule(threshold) for threshold in thresholds)
    model, found = answers(folder, "signs", images, True, exits=rules, closed=closed)
    wanted, _, left = synthetic_bundle.expected(known, thresholds, closed)
    assert set(left) == {*used, 2}
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert sum(node.op == "Where" for node in model.nodes) == len(used)
    assert sum(node.op == "Conv" for node in model.nodes) == 4 - len(closed)
    assert [(i.name, i.shape) for i in model.outputs] == [("logits", ("batch", 4))]
    whole, all_blocks = answers(folder, "signs", images, False, exits=rules, closed=closed)
    last = synthetic_bundle.Backbone().answers(images, weights["signs"])[-1]
    np.testing.assert_allclose(all_blocks, last, rtol=1e-4, atol=1e-5)
    assert not {"Where", "Exp", "Less"} & {node.op for node in whole.nodes}
