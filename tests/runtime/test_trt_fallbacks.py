"""What builders are given, on every simulated release of TensorRT, and what is done where they do not build it."""

import importlib
import json

import numpy as np
import onnx
import pytest
import synthetic_bundle
from onnx import TensorProto
from simulation import RELEASES, simulated
from simulation.tensorrt import kernels
from test_build import measure
from trt_answers import EVERY_RELEASE, NEWEST

from da3.runtime import Runtime
from da3.runtime.app.commands import main
from da3.runtime.app.texts import render_report
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.cuda import interface
from da3.runtime.errors import BackendError
from da3.runtime.trt.api import EngineContext
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines
from da3.runtime.trt.builder import Builder
from da3.runtime.trt.store import describe_sets

WITH_LIBRARIES = [release for release in RELEASES if release.startswith("8.")]
PART = "block_1+adaptor"


@pytest.fixture
def given(monkeypatch):
    """Every (graph, recipe) that a builder is given."""
    found = []
    whole = Builder.plan

    def noted(self, model, recipe):
        found.append((onnx.load_from_string(model), recipe))
        return whole(self, model, recipe)

    monkeypatch.setattr(Builder, "plan", noted)
    return found


def lacks(monkeypatch, part, wrong):
    """There is no kernel for the convolution of a part, by its name, where wrong(network, config) says so."""

    def there(node, network, config):
        return node.op_type != "Conv" or network._model.graph.name != part or not wrong(network, config)

    monkeypatch.setattr(kernels, "there", there)


def entries(report):
    with open(f"{report.folder}/engines.json") as file:
        return {entry["name"]: entry for entry in json.load(file)["engines"].values()}


def loaded(runtime):
    """{name: (type, layout, shape)} of every tensor of the engines, {source} of the tactics that they may take."""
    (lane,) = runtime._open.scheduler._lanes.values()
    opened = lane._backend._opened
    runners = opened._idle[0].engines if opened._idle else opened._engines
    tensors = {
        tensor.name: (tensor.dtype.name, tensor.layout, tensor.shape)
        for engine in runners.values()
        for tensor in engine.tensors.values()
    }
    return tensors, {int(engine._raw.tactic_sources) for engine in runners.values()}


def check_answers(bundle, precision="fp16", tolerance=0.05):
    images = synthetic_bundle.images(4)
    with Runtime(bundle, TensorRTBackend(precision=precision)) as runtime, Runtime(bundle, "reference") as cpu:
        got, expected = (r.run_batch(images, "signs", force_all_blocks=True) for r in (runtime, cpu))
    np.testing.assert_allclose(got.logits, expected.logits, atol=tolerance)


# -- what is handed over


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_no_graph_has_a_cast(release, precision, bundle, exits_bundle, given):
    """Where TensorRT picks types, graphs are float32 and borders are told theirs; else graphs are float16."""
    for folder in (bundle, exits_bundle):
        measure(folder, 5.0)
        with simulated(tensorrt=release):
            build_engines(folder, precision, (1, 4))
    assert len(given) == 7 + 3
    typed = release.startswith("11.")
    for model, recipe in given:
        assert "Cast" not in {node.op_type for node in model.graph.node}
        ends = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]}
        assert set(ends.values()) == {TensorProto.FLOAT16 if typed else TensorProto.FLOAT}
        assert bool(recipe.halves) != typed and recipe.half
        fast = {name for name, layout in recipe.layouts.items() if layout != "LINEAR"}
        assert fast and (typed or fast <= set(recipe.halves))
        assert typed or not {"image", "g1", "g2", "features", "e0", "e1"} & set(recipe.halves)
    assert any(node.op_type == "QuantizeLinear" for model, _ in given for node in model.graph.node) == (
        precision == "int8"
    )


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_borders_are_of_the_type_that_was_told(release, bundle):
    with simulated(tensorrt=release):
        build_engines(bundle, "fp16", (1, 4))
        with Runtime(bundle, "tensorrt") as runtime:
            tensors, _ = loaded(runtime)
            runtime.run_batch(synthetic_bundle.images(2), "signs")
            (lane,) = runtime._open.scheduler._lanes.values()
            with lane._backend._opened.cuda.current():
                for copy in lane._idle[0].context._copies.values():
                    assert copy.read().dtype == np.float32, "what the host reads is float32 wherever it was converted"
    shared = "float16" if release.startswith("11.") else "float32"
    assert tensors["x1"][:2] == ("float16", "HWC8")
    assert tensors["image"][:2] == tensors["g1"][:2] == (shared, "LINEAR")


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_one_image_alone_is_a_static_shape(release, bundle, exits_bundle, given):
    for folder in (bundle, exits_bundle):
        with simulated(tensorrt=release):
            report = build_engines(folder, "fp16", (1, 1))
            assert "1 image at a time" in render_report(report)
            check_answers(folder)
            if folder is bundle:
                with Runtime(folder, "tensorrt") as runtime:
                    assert all(-1 not in shape for _, _, shape in loaded(runtime)[0].values())
    for model, _ in given:
        values = [*model.graph.input, *model.graph.output]
        assert all(d.HasField("dim_value") for v in values for d in v.type.tensor_type.shape.dim)


def test_engines_for_one_image_take_any_number_of_contexts(bundle):
    """Before profiles could be shared, too: there is none."""
    used = {}
    for batch in ((1, 1), (1, 2)):
        with simulated(tensorrt="8.2.1") as device:
            build_engines(bundle, "fp16", batch)
            with Runtime(bundle, "tensorrt") as runtime:
                (lane,) = runtime._open.scheduler._lanes.values()
                contexts = [lane._backend.context(1) for _ in range(3)]
                for context in contexts:
                    context.begin(synthetic_bundle.images(1))
                used[batch] = sum(a.size for a in device.store.alive() if a.label == "an engine's weights")
                for context in contexts[::-1]:
                    context.end()
                    context.close()
    assert used[1, 2] == 3 * used[1, 1]


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_one_picture_takes_the_memory_of_one(release, bundle, monkeypatch):
    """From 10 on, where TensorRT says what shapes take: a quarter, for engines of up to four."""
    used = {}
    for answer in ("as it is", 0):
        with simulated(tensorrt=release) as device:
            build_engines(bundle, "fp16", (1, 4))
            if answer == 0 and "ExecutionContextAllocationStrategy" in dir(importlib.import_module("tensorrt")):
                monkeypatch.setattr(EngineContext, "scratch_for", lambda self, shapes: 0)
            with Runtime(bundle, "tensorrt") as runtime:
                for count in (1, 4, 1):
                    found = runtime.run_batch(synthetic_bundle.images(count), "signs")
                    assert np.isfinite(found.logits).all()
                (lane,) = runtime._open.scheduler._lanes.values()
                opened = lane._backend._opened
                if not opened.shared:
                    continue
                for pooled in lane._idle:
                    runners = pooled.context._place.runners
                    (memory,) = [a for a in device.store.alive() if a.address == runners._memory]
                    used[answer, pooled.batch] = memory.size
    if used:
        whole, says = used[0, 4], release.startswith(("10.", "11."))
        assert used["as it is", 4] == whole == used[0, 1]
        assert abs(used["as it is", 1] - whole / (4 if says else 1)) <= 512  # to which it is rounded


def test_the_workspace_is_half_of_what_the_machine_has_to_give(bundle, given, monkeypatch):
    """A GPU with memory of its own counts what is free there; one without, what the system would free as well."""
    monkeypatch.setattr(interface, "available_bytes", lambda: 900 << 20)
    for machine, wanted in (
        ({"integrated": True, "memory": 1 << 30}, 450 << 20),
        ({"integrated": False, "memory": 1 << 30}, 512 << 20),
        ({"integrated": False, "memory": 4 << 30}, 1 << 30),
    ):
        given.clear()
        with simulated(tensorrt=NEWEST, **machine) as device:
            device.store.load("the system", 500 << 20)
            build_engines(bundle, engines=str(bundle / "engines"), force=True)
        assert {recipe.workspace for _, recipe in given} == {wanted}


# -- libraries


@pytest.mark.parametrize("release", WITH_LIBRARIES)
def test_libraries_are_asked_only_where_a_part_does_not_build_without(release, bundle, monkeypatch, given):
    lacks(monkeypatch, PART, lambda network, config: "CUDNN" not in kernels.allowed(config))
    with simulated(tensorrt=release) as device:
        report = build_engines(bundle, "fp16", (1, 4))
        assert report.libraries == ["block_1+adaptor"] and report.fallen == {} and report.exceptions == ((), ())
        assert "note: TensorRT built block_1+adaptor with cuBLAS or cuDNN only" in render_report(report)
        assert {name for name, entry in entries(report).items() if entry["libraries"]} == {"block_1+adaptor"}
        with Bundle(bundle) as opened:
            assert describe_sets(opened).endswith("7 of 7, 1 with cuDNN or cuBLAS")
        again = build_engines(bundle, "fp16", (1, 4))
        assert (again.built, again.libraries) == (0, report.libraries)
        assert device.store.account["library"] == 640 << 20
    with simulated(tensorrt=release) as device, Runtime(bundle, "tensorrt") as runtime:
        runtime.run_batch(synthetic_bundle.images(2), "flowers")
        assert device.store.account["library"] == 640 << 20
    words = "of 600.0 MiB of the GPU's memory are free"
    with simulated(tensorrt=release, memory=600 << 20), pytest.raises(BackendError, match=words):
        Runtime(bundle, "tensorrt").load("flowers")
    assert [recipe.libraries for _, recipe in given].count(True) == 1


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_engines_need_no_libraries(release, bundle):
    with simulated(tensorrt=release) as device:
        import tensorrt as trt

        old = [int(source) for name, source in trt.TacticSource.__members__.items() if name in kernels.LIBRARIES]
        assert bool(old) == (not release.startswith("11."))
        report = build_engines(bundle, "fp16", (1, 4))
        assert report.libraries == []
        with Runtime(bundle, "tensorrt") as runtime:
            (mask,) = loaded(runtime)[1]
        assert not any(mask >> source & 1 for source in old)
        assert device.store.account["library"] == 0, "what a Nano does not have to spare"


# -- precision


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_a_part_that_does_not_build_in_int8_is_built_in_float16(release, bundle, monkeypatch):
    measure(bundle, 5.0)
    lacks(
        monkeypatch, PART, lambda network, config: any(n.op_type == "QuantizeLinear" for n in network._model.graph.node)
    )
    with simulated(tensorrt=release):
        report = build_engines(bundle, "int8", (1, 4))
        assert report.fallen == {"fp16": ["block_1+adaptor"]} and report.exceptions == ((), ())
        assert "note: TensorRT did not build block_1+adaptor in int8: built in fp16" in render_report(report)
        precisions = {name: entry["precision"] for name, entry in entries(report).items()}
        assert precisions.pop("block_1+adaptor") == "fp16" and set(precisions.values()) == {"int8"}
        with Bundle(bundle) as opened:
            assert describe_sets(opened).endswith("7 of 7, 1 in fp16")
        check_answers(bundle, "int8", 0.4)
        assert build_engines(bundle, "int8", (1, 4)).built == 0


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_a_part_that_does_not_build_in_float16_is_built_in_float32(release, bundle, monkeypatch):
    """Its neighbours hand it float32 then."""
    lacks(
        monkeypatch,
        PART,
        lambda network, config: "HALF" in {t._dtype for t in network._inputs + network._outputs},
    )
    with simulated(tensorrt=release):
        report = build_engines(bundle, "fp16", (1, 4))
        linear, full = report.exceptions
        assert linear == () and {"x1", "x2", "a1", "a2"} <= set(full)
        # Where TensorRT picks types, the part may still be float16 within; else what skips the block is not, either.
        fallen = {"fp32": ["block_1+adaptor", "skip+adaptor"]} if release.startswith("11.") else {}
        assert report.fallen == fallen
        assert "note: TensorRT built with a1, a2" in render_report(report)
        with Runtime(bundle, "tensorrt") as runtime:
            assert loaded(runtime)[0]["x1"][:2] == ("float32", "LINEAR")
        check_answers(bundle)
        assert build_engines(bundle, "fp16", (1, 4)).built == 0


def test_what_does_not_build_at_all_is_said_in_its_first_words(bundle, monkeypatch, given):
    measure(bundle, 5.0)
    lacks(monkeypatch, PART, lambda network, config: True)
    with simulated(tensorrt="8.2.1"), pytest.raises(BackendError) as error:
        build_engines(bundle, "int8", (1, 4))
    assert "does not build block_1+adaptor: " in str(error.value)
    assert "Could not find any implementation for node" in str(error.value)
    tried = [(recipe.int8, recipe.half, recipe.libraries) for _, recipe in given[-7:]]
    # Two precisions with and without libraries, then in plain rows, then in float32.
    assert tried == [
        (True, True, False), (True, True, True), (False, True, False), (False, True, True),
        (True, True, True), (False, True, True), (False, False, True),
    ]  # fmt: skip


@pytest.mark.parametrize("sm, name", [(53, "NVIDIA Tegra X1"), (62, "NVIDIA Tegra X2")])
def test_gpus_without_int8_get_float16(sm, name, bundle, given, capsys):
    measure(bundle, 5.0)
    with simulated(tensorrt="8.2.1", sm=sm, gpu=name):
        assert main(["build", "--bundle", str(bundle), "--precision", "int8"]) == 0
        assert f"note: GPUs of sm_{sm} have no int8: built in fp16" in capsys.readouterr().out
        assert not any(recipe.int8 for _, recipe in given)
        assert build_engines(bundle, "fp16").built == 0
        check_answers(bundle, "int8")
        with Bundle(bundle) as opened:
            assert "fp16" in describe_sets(opened) and "int8" not in describe_sets(opened)
