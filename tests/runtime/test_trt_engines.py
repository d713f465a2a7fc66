"""TensorRT engines: building them, refusing those that do not fit, and machines that have no TensorRT or no GPU.

All of it on the simulated releases of tests/simulation.
"""

import json
import shutil

import numpy as np
import pytest
import synthetic_bundle
from simulation import simulated
from simulation.tensorrt import formats
from trt_answers import NEWEST, PYTHON, check

from da3.runtime import Runtime
from da3.runtime.backends.onnxruntime import OrtBackend
from da3.runtime.errors import BackendError
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines

pytest_plugins = ["trt_fixtures"]


# -- engines that do not fit


def refusal(built, folder, **options):
    with simulated(**options), pytest.raises(BackendError) as caught:
        Runtime(built[0], TensorRTBackend(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_engines_of_another_release_or_gpu(built, engines):
    folder = engines("8.6.1")
    text = "its engines were built with TensorRT 8.6.1.6 on sm_87; this is TensorRT %s on sm_%d: run `da3 build`"
    assert refusal(built, folder, tensorrt="10.16.1").endswith(text % ("10.16.1.11", 87))
    assert refusal(built, folder, tensorrt="8.6.1", sm=72).endswith(text % ("8.6.1.6", 72))
    assert "on a Orin; this is a Thor" in refusal(built, folder, tensorrt="8.6.1", gpu="Thor")


def test_no_engines_yet(built, tmp_path):
    assert "no engines are built for it yet: run `da3 build`" in refusal(built, str(tmp_path))


@pytest.mark.parametrize("there", [{"release": "8.2.1"}, {"release": "8.6.1", "sm": 72}])
def test_tensorrt_has_the_last_word(there, built, engines, tmp_path):
    """An index that claims another origin than the plans have."""
    folder = shutil.copytree(engines(**there), tmp_path / "engines")
    (index,) = folder.glob("*/engines.json")
    content = json.loads(index.read_text())
    content.update(tensorrt="8.6.1.6", sm=87)
    index.write_text(json.dumps(content))
    words = refusal(built, str(folder), tensorrt="8.6.1")
    assert words.startswith("TensorRT 8.6.1.6 cannot load the engine of") and "please rebuild" in words


def test_damaged_and_missing_plans(built, engines, tmp_path):
    for spoil, words in (
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "wrong sha256"),
        (lambda p: p.unlink(), "cannot be read"),
    ):
        folder = shutil.copytree(engines(NEWEST), tmp_path / words.replace(" ", ""))
        spoil(sorted(folder.glob("*/*.plan"))[0])
        assert words in refusal(built, str(folder), tensorrt=NEWEST)


# -- machines that do not do


@pytest.mark.parametrize("cuda", ["pycuda", PYTHON, "cuda-python 11.8"])
@pytest.mark.parametrize(
    "machine, words",
    [
        ({"gpu": None}, "the NVIDIA driver sees no GPU"),
        ({"driver": "missing"}, "no NVIDIA driver is installed here"),
        ({"driver": "old"}, "do not fit each other"),
        ({"tensorrt": None}, "TensorRT cannot be imported"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(cuda, machine, words, built, engines):
    folder = engines(NEWEST)
    assert words in refusal(built, folder, **{"tensorrt": NEWEST, "cuda": cuda, **machine})
    with simulated(**{"tensorrt": NEWEST, "cuda": cuda, **machine}), pytest.raises(BackendError, match=words):
        build_engines(built[0], engines=folder)


def test_no_way_to_cuda(built, engines):
    words = refusal(built, engines(NEWEST), tensorrt=NEWEST, cuda=None)
    assert words.startswith("no NVIDIA driver is installed here (libcuda.so.1: cannot open shared object file")


# -- building


def test_a_build_goes_on_where_it_was_and_keeps_what_it_measured(built, tmp_path):
    with simulated(tensorrt="8.6.1"):
        first = build_engines(built[0], "fp32", engines=str(tmp_path))
        again = build_engines(built[0], "fp32", engines=str(tmp_path))
        assert first.built > 4 and (again.built, again.reused) == (0, first.built)
        forced = build_engines(built[0], "fp32", engines=str(tmp_path), force=True)
        assert forced.built == first.built
    (cache,) = tmp_path.glob("timing-*.cache")
    assert len(json.loads(cache.read_bytes())["entries"]) == first.built
    cache.write_bytes(b"damaged")
    with simulated(tensorrt="8.6.1"):
        assert build_engines(built[0], "fp32", engines=str(tmp_path), force=True).built == first.built


def test_one_build_serves_every_domain(engines, opened, answers, built, tmp_path):
    bundle = shutil.copytree(built[0], tmp_path / "bundle")
    with simulated(tensorrt=NEWEST, cuda=PYTHON):
        build_engines(bundle, "fp16")
        weights = synthetic_bundle.random_weights(classes=70, seed=5)
        synthetic_bundle.write_domain(bundle / "domains" / "many", "many", weights)
        assert build_engines(bundle, "fp16").built == 0
        with Runtime(bundle, "tensorrt") as runtime, Runtime(bundle, "reference") as cpu:
            images = synthetic_bundle.images(2)
            got, expected = (r.run_batch(images, "many") for r in (runtime, cpu))
            np.testing.assert_allclose(got.logits, expected.logits, atol=0.1)


@pytest.mark.parametrize("release", ["8.2.1", "8.6.1", NEWEST])
def test_int8(release, bundle):
    ranges = {f"backbone/block_{i}.onnx": {"x": 12.0 * (i + 1)} for i in range(3)}
    path = bundle / "backbone" / "int8.json"
    path.write_text(json.dumps({"format": 1, "ranges": ranges}))
    manifest = synthetic_bundle.read_manifest(bundle)
    manifest["files"]["backbone/int8.json"] = synthetic_bundle.file_entry(path)
    synthetic_bundle.write_manifest(bundle, manifest)
    images = synthetic_bundle.images(3)
    with Runtime(bundle, OrtBackend(precision="int8")) as cpu:
        expected = cpu.run_batch(images, "flowers", force_all_blocks=True)
    with simulated(tensorrt=release):
        build_engines(bundle, "int8", (1, 4))
        with Runtime(bundle, TensorRTBackend(precision="int8")) as runtime:
            got = runtime.run_batch(images, "flowers", force_all_blocks=True)
    np.testing.assert_allclose(got.logits, expected.logits, atol=0.2)


def test_where_a_layout_does_not_build_plain_rows_do(built, tmp_path, monkeypatch, answers):
    monkeypatch.delitem(formats.LAYOUTS, "HWC8")
    with simulated(tensorrt="10.16.1"):
        report = build_engines(built[0], "fp16", engines=str(tmp_path))
        assert report.exceptions.linear
        with Runtime(built[0], TensorRTBackend(str(tmp_path))) as runtime:
            check(runtime, answers, "flowers", [0, 1, 2], "fp16")


def test_more_images_than_engines_take(built, engines, answers, opened):
    engines(NEWEST)
    with simulated(tensorrt=NEWEST, cuda=PYTHON), opened(NEWEST) as runtime:
        check(runtime, answers, "flowers", [0, 1, 2, 3, 4, 5])
        with pytest.raises(BackendError, match="1 to 4 images at a time, not 5"):
            runtime._backend.context(5)
