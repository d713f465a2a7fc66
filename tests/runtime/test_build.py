"""Building engines and finding them again, on the simulated TensorRT (see tests/simulation)."""

import gc
import json
import re
import shutil

import numpy as np
import onnx
import pytest
import synthetic_bundle
from onnx import helper, numpy_helper
from simulation import simulated

from da3.runtime import Runtime
from da3.runtime.app.commands import main
from da3.runtime.app.texts import duration, parse_batch, render_progress, render_report
from da3.runtime.backends.reference import ReferenceBackend
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.errors import BackendError, BundleError, InUseError
from da3.runtime.records import Step
from da3.runtime.schedule.layout import join_plan
from da3.runtime.system import exclusive
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines
from da3.runtime.trt.builder import Builder
from da3.runtime.trt.engines import EngineOptions, engine_specs, unique
from da3.runtime.trt.selection import choose_set
from da3.runtime.trt.store import describe_sets, read_plan, read_sets

RELEASES = {
    "8.2.1": "pycuda",
    "8.5.3": "pycuda",
    "8.6.1": "pycuda",
    "10.3.0": "cuda-python 12.6",
    "10.16.1": "cuda-python 12.6",
    "11.4.0": "cuda-python 13.0",
}
ENGINES = 7  # of the synthetic bundle: stem, three blocks, two that skip, tail; most with an adaptor behind


@pytest.fixture(params=RELEASES)
def release(request):
    return request.param


def installed(release="10.16.1", **changes):
    return simulated(tensorrt=release, **{"cuda": RELEASES[release], **changes})


def index(report):
    with open(f"{report.folder}/engines.json") as file:
        return json.load(file)


def open_error(bundle, **options):
    with pytest.raises(BackendError) as error:
        Runtime(bundle, backend=TensorRTBackend(**options))
    return str(error.value).replace(str(bundle), "B")


# -- building


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_each_engine_is_built_once(bundle, release, precision):
    with installed(release):
        report = build_engines(bundle, precision)
        assert (report.built, report.reused, report.exceptions) == (ENGINES, 0, ((), ()))
        assert (report.fallen, report.libraries, report.asked) == ({}, [], precision)
        again = build_engines(bundle, precision)
        assert (again.built, again.reused, again.folder) == (0, ENGINES, report.folder)
        assert build_engines(bundle, precision, force=True).built == ENGINES
    content = index(report)
    assert content["tensorrt"].startswith(release) and (content["gpu"], content["sm"]) == ("Orin", 87)
    assert content["batch"] == {"min": 1, "opt": 1, "max": 8} and content["total"] == ENGINES
    assert len(list((bundle / "engines").glob("timing-*-sm87-Orin.cache"))) == 1
    assert all(0 < entry["seconds"] < 100 for entry in content["engines"].values())
    layouts = {layout for entry in content["engines"].values() for layout in entry["layouts"].values()}
    assert layouts == ({"LINEAR", "HWC8"} if precision == "fp16" else {"LINEAR"})


def test_what_is_built_again_is_used_until_it_is_there(bundle, monkeypatch):
    real, calls = Builder.plan, []

    def plan(self, *words):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *words) + b"another time"

    with installed():
        build_engines(bundle)
        before = {path.name: path.read_bytes() for path in (bundle / "engines").rglob("*.plan")}
        with monkeypatch.context() as patch:
            patch.setattr(Builder, "plan", plan)
            with pytest.raises(KeyboardInterrupt):
                build_engines(bundle, force=True)
        (found,) = read_sets(str(bundle / "engines"))
        plans = [read_plan(found, identity) for identity in found.engines]
        assert len(plans) == ENGINES and sum(plan in before.values() for plan in plans) == ENGINES - 2
        assert build_engines(bundle).built == 0
        assert len(list((bundle / "engines").rglob("*.plan"))) == ENGINES


def test_two_do_not_build_the_same_at_once(bundle):
    with installed():
        report = build_engines(bundle)
        with exclusive(report.folder), pytest.raises(InUseError, match=r"is in use by `.*` \(process \d+ on"):
            build_engines(bundle)
        assert build_engines(bundle).reused == ENGINES


def test_a_new_domain_builds_nothing(bundle, tmp_path):
    with installed():
        build_engines(bundle)
        weights = synthetic_bundle.random_weights(classes=11, seed=8)
        synthetic_bundle.write_domain(bundle / "domains" / "later", "later", weights)
        assert build_engines(bundle).built == 0
        with Runtime(bundle, backend="tensorrt") as runtime:
            images = synthetic_bundle.images(3)
            found = runtime.run_batch(images, domain="later")
    logits, ran = synthetic_bundle.Backbone().reference(images, weights)
    assert (found.blocks == ran).all()
    np.testing.assert_allclose(found.logits, logits, rtol=0.02, atol=0.02)


def test_subgraphs_that_are_alike_share_an_engine(bundle):
    adaptor = [f"domain:adaptors.0.{name}" for name in ("down", "up", "gate_weight", "gate_bias")]
    plan = (
        Step("stem", ("image",), ("x0",)),
        Step("adaptor", ("x0", *adaptor), ("a0", "g1")),
        Step("block_1", ("x0", "a0"), ("x1",), 1, "g1", "skip", ("x0", "a0")),
        Step("block_2", ("x1", "a0"), ("x2",), 2, "g1", "skip", ("x1", "a0")),
        Step("tail", ("x2",), ("features",)),
        Step("head", ("features", "domain:head.weight", "domain:head.bias"), ("logits",)),
    )
    with Bundle(bundle) as opened:
        manifest = opened.manifest._replace(plan=plan)
        specs = engine_specs(join_plan(manifest, True), manifest, EngineOptions("fp16", (1, 8)), sm=87, typed=False)
    assert [spec.subgraph.segment.name for spec in specs].count("skip") == 2
    assert [spec.subgraph.segment.name for spec in unique(specs)].count("skip") == 1
    assert len(unique(specs)) == len(specs) - 1


def test_what_is_asked_for_has_engines_of_its_own(bundle):
    with installed(sm=53):
        folders = [build_engines(bundle, precision, batch).folder for precision, batch in
                   (("fp16", (1, 8)), ("fp16", (4, 4)), ("fp32", (1, 8)))]  # fmt: skip
        assert len(set(folders)) == 3
        half = index(build_engines(bundle))
        assert {v for e in half["engines"].values() for v in e["layouts"].values()} == {"LINEAR", "CHW2"}
        with Runtime(bundle, backend=TensorRTBackend(precision="fp32")) as runtime:
            assert runtime._backend.max_batch == 8
        assert len(read_sets(str(bundle / "engines"))) == 3


def test_progress(bundle):
    steps = []
    with installed():
        build_engines(bundle, progress=steps.append)
        begun, done = steps[::2], steps[1::2]
        assert [step.number for step in begun] == [step.number for step in done] == list(range(1, ENGINES + 1))
        assert {step.total for step in steps} == {ENGINES}
        assert all(step.seconds is None for step in begun) and all(step.seconds > 0 for step in done)
        assert begun[0].left is None and done[-1].left == 0 and done[0].left > 0
        steps.clear()
        build_engines(bundle, progress=steps.append)
        assert len(steps) == ENGINES and all(step.reused for step in steps)
    assert render_progress(steps[0]) == "[1/7] stem+adaptor: built before"
    assert render_progress(begun[0]) == "[1/7] stem+adaptor ..."
    assert render_progress(done[0]._replace(seconds=3.21, left=245.0)).endswith(": 3.2 s, about 4 min 5 s to go")


def test_an_interrupted_build_goes_on(bundle):
    def interrupt(step):
        if step.number == 4 and step.seconds is None:
            raise KeyboardInterrupt

    with installed():
        with pytest.raises(KeyboardInterrupt):
            build_engines(bundle, progress=interrupt)
        assert open_error(bundle) == "B: 3 of its 7 engines are built: run `da3 build` to go on"
        report = build_engines(bundle)
        assert (report.built, report.reused) == (ENGINES - 3, 3)
        Runtime(bundle, backend="tensorrt").close()


def test_an_engine_that_vanished_is_built_again(bundle):
    with installed():
        report = build_engines(bundle)
        names = sorted(entry["plan"] for entry in index(report)["engines"].values())
        (bundle / "engines" / report.folder / names[2]).unlink()
        assert "cannot be read" in open_error(bundle) and "run `da3 build`" in open_error(bundle)
        assert build_engines(bundle).built == 1


def test_a_layout_that_does_not_build_is_given_up(bundle, monkeypatch):
    whole = Builder.plan

    def picky(self, model, recipe):
        if recipe.name == "block_1+adaptor" and "HWC8" in recipe.layouts.values():
            raise BackendError("TensorRT does not build block_1+adaptor: no such layout")
        return whole(self, model, recipe)

    monkeypatch.setattr(Builder, "plan", picky)
    with installed():
        report = build_engines(bundle)
        assert report.exceptions == (("x1", "x2"), ()) and report.fallen == {}
        assert "did not build with x1, x2 in its fast layout" in render_report(report)
        assert len(list((bundle / "engines").rglob("*.plan"))) == len(index(report)["engines"])
        images = synthetic_bundle.images(4)
        with Runtime(bundle, backend="tensorrt") as runtime:
            found = runtime.run_batch(images, domain="flowers")
    with Runtime(bundle, backend="reference") as runtime:
        expected = runtime.run_batch(images, domain="flowers")
    assert (found.blocks == expected.blocks).all()
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0.02, atol=0.02)


def test_what_tensorrt_refuses_is_said(bundle, release):
    break_block(bundle, lambda model: setattr(model.graph.node[-1], "op_type", "HardSwish"))  # of later opsets
    with (
        installed(release),
        pytest.raises(BackendError, match=r"TensorRT \S+ does not build block_0\+adaptor: .*HardSwish"),
    ):
        build_engines(bundle)


# -- int8


def test_int8_wants_measured_ranges(bundle):
    with installed(), pytest.raises(BundleError, match="was not measured for INT8: run `da3 calibrate --int8`"):
        build_engines(bundle, "int8")


def test_int8(bundle, release):
    measure(bundle, 5.0)
    images = synthetic_bundle.images(4)
    with installed(release):
        report = build_engines(bundle, "int8")
        with Runtime(bundle, backend="tensorrt") as runtime:
            found = runtime.run_batch(images, domain="signs", force_all_blocks=True)
        measure(bundle, 6.0)
        assert build_engines(bundle, "int8").folder != report.folder  # what was measured is part of an engine
    measure(bundle, 5.0)
    with Runtime(bundle, backend=ReferenceBackend("int8")) as runtime:
        expected = runtime.run_batch(images, domain="signs", force_all_blocks=True)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0.02, atol=0.05)


def test_a_graph_with_quantisers_of_its_own(bundle, release):
    break_block(bundle, quantise)
    images = synthetic_bundle.images(2)
    with installed(release):
        assert build_engines(bundle, "fp32").built == ENGINES
        with Runtime(bundle, backend="tensorrt") as runtime:
            found = runtime.run_batch(images, domain="signs", force_all_blocks=True)
    with Runtime(bundle, backend="reference") as runtime:
        expected = runtime.run_batch(images, domain="signs", force_all_blocks=True)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-3, atol=1e-3)


# -- refusing


def test_no_engines_yet(bundle):
    with installed():
        assert open_error(bundle) == "B: no engines are built for it yet: run `da3 build`"
        build_engines(bundle, "fp32")
        assert open_error(bundle, precision="fp16") == (
            "B: no engines in fp16 are built for it yet: run `da3 build --precision fp16`"
        )


def test_engines_of_another_tensorrt(bundle):
    with installed("8.6.1"):
        build_engines(bundle)
    with installed("10.16.1"):
        text = open_error(bundle)
    assert re.fullmatch(
        r"B: its engines were built with TensorRT 8\.6\.1\S* on sm_87; this is TensorRT 10\.16\.1\S* on sm_87: "
        "run `da3 build`",
        text,
    )


def test_engines_of_another_gpu(bundle):
    with installed():
        build_engines(bundle)
    with installed(sm=72):
        assert "on sm_87; this is TensorRT 10.16.1" in open_error(bundle)
    with installed(gpu="Orin Nano"):
        assert "on a Orin; this is a Orin Nano: run `da3 build`" in open_error(bundle)


def test_engines_of_other_files(bundle):
    with installed():
        build_engines(bundle)
        break_block(bundle, lambda model: setattr(model, "producer_name", "another day"))
        assert "its engines were built from other ONNX files than it has now" in open_error(bundle)
        assert build_engines(bundle).built == ENGINES


def test_a_damaged_plan(bundle):
    with installed() as device:
        report = build_engines(bundle)
        plan = next((bundle / "engines").rglob("*.plan"))
        plan.write_bytes(plan.read_bytes()[:-1] + b"?")
        assert "is not the engine that was built (wrong sha256): run `da3 build`" in open_error(bundle)
        gc.collect()  # of the frames that the error has
        assert device.store.used == 0  # nothing is left of those that were loaded before it
        (bundle / "engines" / report.folder / "engines.json").write_text("{")
        assert "no engines are built" in open_error(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"engines": {"x": {"plan": "../../manifest.json", "sha256": ""}}},
        {"engines": []},
        {"batch": 8},
        {"sm": "x"},
        {"linear": 5},
        {"full": None},
    ],
)
def test_an_index_that_makes_no_sense_is_passed_over(bundle, change):
    with installed():
        report = build_engines(bundle)
        content = index(report)
        with open(f"{report.folder}/engines.json", "w") as file:
            json.dump({**content, **change}, file)
        assert read_sets(str(bundle / "engines")) == []


def test_a_zip_holds_no_engines(bundle, tmp_path):
    zipped = shutil.make_archive(str(tmp_path / "z"), "zip", bundle)
    with installed():
        with pytest.raises(BackendError, match=r"is a zip, which cannot hold engines: unzip it.*--engines"):
            build_engines(zipped)
        report = build_engines(zipped, engines=str(tmp_path / "plans"))
        assert report.built == ENGINES
        with Runtime(zipped, backend=TensorRTBackend(engines=str(tmp_path / "plans"))) as runtime:
            assert runtime.run_batch(synthetic_bundle.images(1), domain="signs").logits.shape == (1, 4)


def test_without_a_gpu_tensorrt_is_left_alone(bundle):
    with installed():
        build_engines(bundle)
    for missing in ({"gpu": None}, {"driver": "missing"}, {"driver": "old"}, {"cuda": None}):
        with installed(**missing):
            assert "--backend onnxruntime" in open_error(bundle)
            with pytest.raises(BackendError, match="--backend onnxruntime"):
                build_engines(bundle)
    with simulated(tensorrt=None):
        assert "TensorRT cannot be imported" in open_error(bundle)


def test_a_folder_that_cannot_be_written(bundle):
    shutil.rmtree(bundle / "engines", ignore_errors=True)  # graphs that a CPU stored
    (bundle / "engines").write_text("in the way")
    with installed(), pytest.raises(BackendError, match="cannot be written"):
        build_engines(bundle)


@pytest.mark.parametrize("batch", [(0, 8), (4, 2), (1, 5000)])
def test_batches_that_make_no_sense(bundle, batch):
    with installed(), pytest.raises(BackendError, match="batch"):
        build_engines(bundle, batch=batch)


def test_an_unknown_precision(bundle):
    with pytest.raises(BackendError, match="unknown precision 'fp8'; known: fp32, fp16, int8"):
        build_engines(bundle, "fp8")


def test_values_inside_engines_cannot_be_traced(bundle, exits_bundle):
    with installed():
        build_engines(bundle)
        build_engines(exits_bundle)
        image = synthetic_bundle.images(1)
        with Runtime(bundle, backend="tensorrt") as runtime:
            assert runtime.trace(image, ["g1"], domain="signs")[1]["g1"].shape == (1,)
            assert runtime.trace(image, ["features"], domain="signs")[1]["features"].shape == (1, 4)
        with Runtime(exits_bundle, backend="tensorrt") as runtime, pytest.raises(BackendError) as error:
            runtime.trace(image, ["x0", "features"], domain="signs")
        assert "trace with the backend onnxruntime or reference" in str(error.value)


# -- the command line


def test_the_command(bundle, capsys):
    with installed("8.2.1"):
        assert main(["build", "--bundle", str(bundle), "--batch", "2:4", "--workspace", "64MB"]) == 0
        out = capsys.readouterr().out
        assert "[7/7] tail: " in out and "7 engines built, 0 were there: TensorRT 8.2.1" in out
        assert "1 to 4 images at a time" in out
        assert main(["build", "--bundle", str(bundle), "--batch", "2:4"]) == 0
        assert "0 engines built, 7 were there" in capsys.readouterr().out
        assert main(["build", "--bundle", str(bundle), "--batch", "x"]) == 1
        assert "error: batch 'x'" in capsys.readouterr().err
        assert main(["doctor", "--bundle", str(bundle)]) == 0
        out = capsys.readouterr().out
        assert "Orin, sm_87" in out and re.search(
            r"engines: TensorRT 8.2.1\S* on sm_87 \(Orin\), fp16, .*: 7 of 7", out
        )


def test_the_command_of_the_toolchain(bundle):
    from typer.testing import CliRunner

    from da3.toolchain.cli.commands import app

    with installed():
        done = CliRunner().invoke(app, ["build", "--bundle", str(bundle), "--precision", "fp32"])
    assert done.exit_code == 0, done.output
    assert "7 engines built" in done.output


def test_the_sets_are_described(bundle):
    with Bundle(bundle) as opened:
        assert describe_sets(opened) == "engines: none"


def test_options():
    assert (parse_batch("1:8"), parse_batch("4")) == ((1, 8), (4, 4))
    for wrong in ("", "1:", "1:2:3", "-1:2"):
        with pytest.raises(BackendError):
            parse_batch(wrong)
    assert (duration(3.14), duration(245)) == ("3.1 s", "4 min 5 s")


def break_block(bundle, change, name="block_0"):
    """Change an ONNX file of a bundle, and the manifest with it."""
    path = bundle / "backbone" / f"{name}.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    manifest = synthetic_bundle.read_manifest(bundle)
    manifest["files"][f"backbone/{name}.onnx"] = synthetic_bundle.file_entry(path)
    synthetic_bundle.write_manifest(bundle, manifest)


def measure(bundle, largest):
    """int8.json, as da3 calibrate --int8 writes it."""
    ranges = {"backbone/stem.onnx": {"image": largest}, "backbone/block_1.onnx": {"x": largest}}
    path = bundle / "backbone" / "int8.json"
    path.write_text(json.dumps({"format": 1, "ranges": ranges}))
    manifest = synthetic_bundle.read_manifest(bundle)
    manifest["files"]["backbone/int8.json"] = synthetic_bundle.file_entry(path)
    synthetic_bundle.write_manifest(bundle, manifest)


def quantise(model):
    """x -> Q -> DQ before the convolution."""
    graph = model.graph
    graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    )
    pair = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
    ]
    nodes = list(graph.node)
    nodes[0].input[0] = "dq"
    del graph.node[:]
    graph.node.extend(pair + nodes)


def test_choose_set_wants_every_engine(bundle):
    with installed():
        report = build_engines(bundle)
        from da3.runtime.trt.store import Device

        with Bundle(bundle) as opened:
            layout = join_plan(opened.manifest, True)
            device = Device(report.device.tensorrt, "Orin", 87)
            engines, specs = choose_set(str(bundle / "engines"), layout, opened, device, typed=False)
            assert len(specs) == len(layout.device_subgraphs) and {spec.identity for spec in specs} == set(
                engines.engines
            )
