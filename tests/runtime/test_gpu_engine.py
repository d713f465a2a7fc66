"""The engine on a real GPU: what test_trt_backend.py shows in a simulation. Skipped, with a reason, where none is."""

import sys
import threading

import numpy as np
import pytest
from synthetic_bundle import images

from da3.runtime import BackendError, Runtime
from da3.runtime.cuda.opening import open_cuda
from da3.runtime.onnx_graph.whole import whole_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.records import ExitRule
from da3.runtime.trt.build import build_engines

pytestmark = pytest.mark.gpu

TOLERANCE = {"fp32": 1e-3, "fp16": 0.05}  # of the largest logit


@pytest.fixture
def gpu():
    try:
        return open_cuda().gpu
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def library(request, gpu, monkeypatch):
    """TensorRT, and TensorRT-RTX in its place."""
    module = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return request.param


@pytest.fixture(params=["fp32", "fp16"])
def built_engines(request, library, bundle):
    """(bundle with engines, precision)"""
    try:
        report = build_engines(bundle, request.param, (2, 8))
    except BackendError as error:
        if library == "tensorrt_rtx":
            pytest.skip(f"TensorRT-RTX does not take this GPU: {error}")
        raise
    assert report.built > 0 and build_engines(bundle, request.param, (2, 8)).built == 0
    return bundle, request.param


def same(found, expected, precision):
    assert (found.blocks == expected.blocks).all()
    np.testing.assert_allclose(found.logits, expected.logits, atol=TOLERANCE[precision] * np.abs(expected.logits).max())


def test_answers_are_those_of_the_cpu(built_engines):
    bundle, precision = built_engines
    x = images(8)
    with Runtime(bundle, backend="tensorrt") as gpu, Runtime(bundle, backend="reference") as cpu:
        for domain in ("flowers", "signs", "flowers"):
            for batch in (x[:1], x[1:4], x, x[:1]):
                for gates in (None, {1: True, 2: False}, {1: False, 2: True}):
                    # float16 may decide a gate near its threshold otherwise: with all gates given it cannot.
                    if gates is not None or precision == "fp32":
                        same(*(r.run_batch(batch, domain, gates=gates) for r in (gpu, cpu)), precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_pictures_leave_at_exits(library, precision, exits_bundle):
    x = images(8)
    try:
        build_engines(exits_bundle, precision, (2, 8))
    except BackendError as error:
        if library == "tensorrt_rtx":
            pytest.skip(f"TensorRT-RTX does not take this GPU: {error}")
        raise
    with Runtime(exits_bundle, backend="tensorrt") as gpu, Runtime(exits_bundle, backend="reference") as cpu:
        for domain in ("flowers", "signs", "flowers"):
            for batch in (x[:1], x[1:4], x, x[:1]):
                for options in ({"leave_at": 0}, {"leave_at": 1}, {}, {"force_all_blocks": True}):
                    found, expected = (r.run_batch(batch, domain, **options) for r in (gpu, cpu))
                    assert (found.left == expected.left).all()
                    same(found, expected, precision)
        for left in (None, [0.0, 0.0, 1.0]):  # the next part waits for the decision, or is started ahead
            for runtime in (gpu, cpu):
                runtime.load(runtime.load("flowers")._replace(name="some", calibration={"cross_fit": {"left": left}}))
                answers = cpu.trace(x, ["logits0", "logits1"], "flowers")[1]
                runtime.set_exits("some", [ExitRule(between(answers[name])) for name in ("logits0", "logits1")])
            for batch in (x, x[:1], x[2:7], x[3:4]):
                found, expected = (r.run_batch(batch, "some") for r in (gpu, cpu))
                assert (found.left == expected.left).all()
                same(found, expected, precision)


def between(logits):
    """A level that is as far as can be from every picture's confidence, near their middle."""
    sure = np.sort(1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1))
    at = 2 + int(np.argmax(np.diff(sure[2:6])))
    return float(sure[at] + sure[at + 1]) / 2


def test_threads_share_a_runtime(built_engines):
    bundle, precision = built_engines
    x = images(4)
    gates = {1: True, 2: True}
    failed = []
    with Runtime(bundle, backend="tensorrt") as gpu, Runtime(bundle, backend="reference") as cpu:
        expected = {name: cpu.run_batch(x, name, gates=gates) for name in ("flowers", "signs")}

        def work(number):
            try:
                for i in range(50):
                    name = ("flowers", "signs")[(number + i) % 2]
                    same(gpu.run_batch(x, name, gates=gates), expected[name], precision)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


def test_onnxruntime_on_the_gpu_takes_the_whole_model(gpu, built):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider: pip install 'da3[gpu]' in place of [cpu]")
    x = images(3)
    with Runtime(built[0], backend="reference") as cpu:
        model = write_model(whole_model(cpu.bundle, cpu.load("flowers")))
        expected = cpu.run_batch(x, "flowers", force_all_blocks=True).logits
    session = onnxruntime.InferenceSession(model, providers=["CUDAExecutionProvider"])
    np.testing.assert_allclose(session.run(["logits"], {"image": x})[0], expected, rtol=1e-2, atol=1e-2)
