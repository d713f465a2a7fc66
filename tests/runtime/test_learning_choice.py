"""What learning runs on: the backend that is named, or the best that is here; and ONNX Runtime's CUDA provider."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from simulation import simulated
from test_learning_tensorrt import CLASSES, batch, domain

from da3.runtime.backends import cuda_session
from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle import Bundle
from da3.runtime.errors import BackendError
from da3.runtime.learning import LearnOptions, choosing, learn
from da3.runtime.learning.making import STEP, derive
from da3.runtime.learning.on_cpu import CpuRunning
from da3.runtime.learning.on_cuda import BoundRunner, CudaRunning
from da3.runtime.learning.on_tensorrt import TensorRTRunning
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.training import Reporter


@pytest.fixture
def without_onnxruntime(monkeypatch):
    """To whoever chooses, that is: the doubles compute with it."""

    def missing():
        raise BackendError("onnxruntime cannot be imported (No module named 'onnxruntime'): pip install 'da3[cpu]'")

    monkeypatch.setattr(choosing, "import_onnxruntime", missing)


def test_onnxruntime_is_taken_first():
    with simulated(tensorrt="8.2.1"):
        assert choosing.best_backend() == "onnxruntime"


def test_a_board_with_stock_jetpack_learns_on_tensorrt(without_onnxruntime):
    with simulated(tensorrt="8.2.1", cuda="pycuda"):
        assert choosing.best_backend() == "tensorrt"


@pytest.mark.parametrize(
    ("simulation", "words"),
    [
        ({"tensorrt": None}, "TensorRT cannot be imported"),
        ({"gpu": None}, "sees no GPU"),
        ({"driver": "old", "cuda": "cuda-python 12.6"}, "do not fit each other"),
    ],
)
def test_where_only_numpy_is_a_user_is_told(simulation, words, without_onnxruntime):
    with simulated(**simulation), pytest.raises(BackendError) as caught:
        choosing.best_backend()
    text = str(caught.value)
    assert "pip install 'da3[cpu]'" in text and words in text and "--backend reference, which is slow" in text
    assert "\n" not in text


def test_each_has_its_running():
    for backend, kind in (("onnxruntime", CpuRunning), ("reference", CpuRunning), ("cuda", CudaRunning)):
        running = choosing.open_running(backend)
        assert type(running) is kind and running.loss_scale == 1
        with pytest.raises(BackendError, match="--precision fp16: learning has it with --backend tensorrt alone"):
            choosing.open_running(backend, precision="fp16")
    running = choosing.open_running("tensorrt", precision="fp16", photos=2)
    assert type(running) is TensorRTRunning and running.usual_slice == 2 and running.loss_scale == 1024


# -- ONNX Runtime's CUDA provider, which is nowhere here: its calls are the CPU's


def test_this_onnxruntime_has_no_cuda(backbone_alone, photos, tmp_path):
    options = LearnOptions("d", str(photos), str(backbone_alone), str(tmp_path / "runs"), backend="cuda", workers=1)
    with pytest.raises(BackendError, match="has no CUDA provider .*CPUExecutionProvider.*onnxruntime-gpu") as caught:
        learn(options, Reporter())
    assert "\n" not in str(caught.value)


def fake(monkeypatch, started=("CUDAExecutionProvider", "CPUExecutionProvider"), error=None):
    """An ONNX Runtime that was built with CUDA; the providers that its sessions start with."""
    made = []

    class InferenceSession:
        def __init__(self, model, options, providers, enable_fallback):
            if error is not None:
                raise error
            made.append((model, providers, enable_fallback))

        def get_providers(self):
            return list(started)

    module = SimpleNamespace(
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        SessionOptions=SimpleNamespace,
        ExecutionMode=SimpleNamespace(ORT_SEQUENTIAL=0),
        InferenceSession=InferenceSession,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return made


def test_a_session_on_the_gpu(monkeypatch):
    made = fake(monkeypatch)
    _, device = cuda_session.open_cuda_session(b"model")
    ((model, providers, fallback),) = made
    assert (model, device, fallback) == (b"model", "cuda", 0)
    assert [p if isinstance(p, str) else p[0] for p in providers] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_provider_that_does_not_start(monkeypatch):
    fake(monkeypatch, started=["CPUExecutionProvider"])  # as where cuDNN is missing: a warning in the log, and no more
    with pytest.raises(BackendError, match="CUDA provider does not start: install the CUDA and cuDNN"):
        cuda_session.open_cuda_session(b"model")
    fake(monkeypatch, error=RuntimeError("CUDA failure 2: out of memory\nmore"))
    with pytest.raises(BackendError, match="cannot learn on this GPU: CUDA failure 2: out of memory$"):
        cuda_session.open_cuda_session(b"model")


def test_kept_inputs_lie_on_the_device(backbone_alone):
    with Bundle(backbone_alone) as bundle:
        tensors, feeds = domain(bundle), batch()
        model = derive(STEP, bundle, CLASSES, ())
        runner = BoundRunner(open_session(write_model(model)), "cpu")
        plain = CpuRunning("reference").open(STEP, bundle, CLASSES)
    for changed in (False, True):
        if changed:
            tensors = {name: array * np.float32(1.1) for name, array in tensors.items()}
        found = []
        for one in (runner, plain):
            one.keep(tensors)
            found.append([one.run(feeds), one.run({name: array[:2] for name, array in feeds.items()})])
        for ours, expected in zip(*found, strict=True):
            assert ours.keys() == expected.keys()
            for name, value in expected.items():
                errors = np.abs(ours[name] - value) / np.abs(value).max()
                assert np.percentile(errors, 95) <= 1e-3, name
    feeds.pop("target")
    with pytest.raises(BackendError, match="a training step failed on the GPU: "):
        runner.run(feeds)
    runner.close()
