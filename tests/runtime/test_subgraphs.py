"""What a subgraph is made of: equal identities for equal graphs, and others as soon as anything differs."""

import json

import pytest
import synthetic_bundle

from da3.runtime.bundle.bundle import Bundle
from da3.runtime.bundle.changing import put_file
from da3.runtime.bundle.writer import to_json
from da3.runtime.onnx_graph.int8_ranges import INT8_FILE
from da3.runtime.onnx_graph.subgraphs import PRECISIONS, cpu_subgraph, ingredients, subgraph_identity
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.schedule.layout import join_plan


def identities(folder, looks_ahead, precision="fp32"):
    with Bundle(folder) as bundle:
        subgraphs = join_plan(bundle.manifest, looks_ahead).subgraphs
        return [subgraph_identity(subgraph, bundle.manifest, precision) for subgraph in subgraphs]


def measure(folder, largest):
    with Bundle(folder) as bundle:
        put_file(bundle, INT8_FILE, to_json({"format": 1, "ranges": {"backbone/block_0.onnx": {"x": largest}}}))


@pytest.mark.parametrize("looks_ahead", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_identities_are_equal_graphs(bundle, looks_ahead, precision):
    measure(bundle, 4.0)
    graphs = {}
    with Bundle(bundle) as opened:
        subgraphs = join_plan(opened.manifest, looks_ahead).subgraphs
        for subgraph in subgraphs:
            data = write_model(cpu_subgraph(subgraph, opened, precision))
            identity = subgraph_identity(subgraph, opened.manifest, precision)
            assert len(identity) == 64 and graphs.setdefault(identity, data) == data
    assert len(set(graphs.values())) == len(graphs)
    # The adaptors of blocks 0 and 1 are one graph where they are subgraphs by themselves.
    assert len(graphs) <= len(subgraphs)


def test_another_bundle_of_the_same_files_has_the_same(built, tmp_path):
    synthetic_bundle.write_bundle(tmp_path / "again")
    assert identities(tmp_path / "again", False) == identities(built[0], False)


def test_other_weights_count(built, tmp_path):
    synthetic_bundle.write_bundle(tmp_path / "other", seed=1)
    with Bundle(built[0]) as bundle:
        steps = [[step.segment for step in s.steps] for s in join_plan(bundle.manifest, False).subgraphs]
    pairs = zip(identities(tmp_path / "other", False), identities(built[0], False), strict=True)
    for (other, mine), names in zip(pairs, steps, strict=True):
        assert (other != mine) == any(name.startswith(("stem", "block")) for name in names)


def test_precision_and_ranges_count(bundle):
    exact = identities(bundle, False)
    assert not set(exact) & set(identities(bundle, False, "fp16"))
    measure(bundle, 4.0)
    assert identities(bundle, False) == exact, "float32 graphs do not depend on the ranges"
    before = identities(bundle, False, "int8")
    measure(bundle, 5.0)
    assert not set(before) & set(identities(bundle, False, "int8"))


def test_wiring_counts(bundle):
    """The same files, but block 2 reads what another adaptor gave."""
    before = identities(bundle, False)
    content = synthetic_bundle.read_manifest(bundle)
    for step in content["plan"]:
        if step.get("block") == 2:
            step["inputs"] = [name.replace("a2", "a1") for name in step["inputs"]]
            step["skip_inputs"] = [name.replace("a2", "a1") for name in step["skip_inputs"]]
    synthetic_bundle.write_manifest(bundle, content)
    after = identities(bundle, False)
    assert before[0] == after[0] and before != after


def test_ingredients_are_plain(built):
    with Bundle(built[0]) as bundle:
        for subgraph in join_plan(bundle.manifest, False).subgraphs:
            files, wiring = ingredients(subgraph, bundle.manifest, "fp32")
            assert len(files) == len(subgraph.steps) and len(wiring) in (0, len(files))
            assert (len(wiring) == 0) == (len(files) == 1)
            json.dumps([files, wiring])
