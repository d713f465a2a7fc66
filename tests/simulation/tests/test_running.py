"""What the simulated engines and contexts refuse, and what they record where real TensorRT's behaviour is undefined."""

import json
import sys
import threading

import numpy as np
import pytest
from onnx import TensorProto

from .. import RELEASES, Crash, simulated
from ..tensorrt import formats
from .helpers import IMAGES, Bound, X, build, doubled, linear, load, misuse, opened, pycuda_context


@pytest.fixture(params=RELEASES)
def bound(request):
    """The linear engine of every release, ready to run."""
    with simulated(tensorrt=request.param), pycuda_context() as cuda:
        import tensorrt as trt

        made = Bound(trt, cuda, build(trt, linear()))
        yield made
        made.close()


# -- plans


def test_an_inspector_names_layers(bound):
    trt = sys.modules["tensorrt"]
    inspector = bound.engine.create_engine_inspector()
    found = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    assert len(found["Layers"]) > 0 and {"x", "y"} <= set(found["Bindings"])
    assert inspector.get_engine_information(trt.LayerInformationFormat.ONELINE).split("\n") == found["Layers"]
    with pytest.raises(TypeError):
        inspector.get_engine_information("JSON")


def plan_of(release, **options):
    with simulated(tensorrt=release, **options), pycuda_context():
        import tensorrt as trt

        return build(trt, linear())


@pytest.mark.parametrize(
    "there, here, words",
    [
        ({"release": "8.2.1"}, {"tensorrt": "8.6.1"}, "expecting library version 8.6.1.6 got 8.2.1.8, please rebuild"),
        ({"release": "10.16.1", "sm": 72}, {"tensorrt": "10.16.1"}, "expecting compute 8.7 got compute 7.2"),
    ],
)
def test_a_foreign_plan_is_refused(there, here, words, capsys):
    plan = plan_of(**there)
    with simulated(**here), pycuda_context():
        import tensorrt as trt

        assert load(trt, plan) is None
    assert words in capsys.readouterr().out


def test_a_damaged_plan_is_refused_and_a_like_gpu_is_warned_of(capsys):
    plan = plan_of("10.16.1")
    with simulated(gpu="Orin Nano"), pycuda_context():
        import tensorrt as trt

        for damaged in (b"", b"junk", plan[:-1], plan[:100]):
            assert load(trt, damaged) is None
        with pytest.raises(TypeError):
            load(trt, "a path")
        assert trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan) is not None
    assert "different models of devices" in capsys.readouterr().out


def test_reading_a_plan_without_a_context_may_end_the_process():
    plan = plan_of("10.16.1")
    with misuse("deserialised without a CUDA context"):
        import tensorrt as trt

        with pytest.raises(Crash):
            load(trt, plan)


def test_no_memory_for_weights_or_scratch(capsys):
    with simulated() as device, pycuda_context():
        trt, _, plan = opened()
        for number in (0, 1):
            device.store.fail_at = device.store.made + number
            engine = load(trt, plan)
            assert (engine is None) == (number == 0)
            if engine is not None:
                assert engine.create_execution_context() is None
        assert capsys.readouterr().out.count("OUT_OF_MEMORY") == 2
        del engine


# -- running by the book


def test_every_release_computes(bound):
    assert (bound.infer(X) == 2 * X).all()
    assert bound.reshape((5, 4))
    assert not bound.reshape((9, 4)) and not bound.reshape((2, 5)) and not bound.reshape((4,))


def test_nothing_is_computed_before_it_is_waited_for():
    with misuse("race: copy DtoH of 32 bytes"), pycuda_context() as cuda:
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        assert (one.infer(X) == 2 * X).all()
        one.host[...] = -X
        cuda.memcpy_htod_async(one.x, one.host, one.stream)
        assert one.enqueue()
        seen = np.zeros_like(X)
        cuda.memcpy_dtoh(seen, one.y)  # the default stream does not wait for a non-blocking one
        assert (seen == 2 * X).all()
        one.stream.synchronize()
        cuda.memcpy_dtoh(seen, one.y)
        assert (seen == -2 * X).all()


def test_layouts_are_kept_in_memory():
    with simulated(), pycuda_context() as cuda:
        trt, _, plan = opened(data=doubled(TensorProto.FLOAT16), profiles=(IMAGES,), layout="HWC8")
        engine = load(trt, plan)
        context, stream = engine.create_execution_context(), cuda.Stream(1)
        array = np.arange(12, dtype=np.float16).reshape(1, 3, 2, 2)
        x, y = cuda.mem_alloc(64), cuda.mem_alloc(64)
        cuda.memcpy_htod(x, formats.pack("HWC8", array))
        cuda.Context.synchronize()
        context.set_input_shape("x", (1, 3, 2, 2))
        assert context.set_tensor_address("x", int(x)) and context.set_tensor_address("y", int(y))
        assert context.execute_async_v3(stream.handle)
        stream.synchronize()
        raw = np.zeros(32, np.float16)
        cuda.memcpy_dtoh(raw, y)
        assert (raw.reshape(2, 2, 8)[..., :3] == 2 * array[0].transpose(1, 2, 0)).all() and np.isnan(raw[3])
        x.free(), y.free()
        del engine, context, stream


def test_fp16_flag_on_a_float32_graph_rounds(bound):
    exact = np.full((2, 4), 1.0001, np.float32)
    rounded = np.float32(np.float16(2.0002))
    assert (bound.infer(exact) == (2 * exact if bound.release == "11.4.0" else rounded)).all()


# -- what must be set


def test_shapes_and_addresses_must_be_set():
    for release in RELEASES:
        with (
            misuse("not all shapes are specified", "address of y is not set", tensorrt=release),
            pycuda_context() as cuda,
        ):
            trt, _, plan = opened()
            one = Bound(trt, cuda, plan, shape=None)
            assert not one.enqueue()
            one.reshape((2, 4))
            assert not one.enqueue(y=0)


def test_addresses_must_be_right():
    with misuse(
        "0x10 is no device address", "after it was freed", "offset 0 exceed", "not aligned to 256", "same bytes twice"
    ), pycuda_context() as cuda:  # fmt: skip
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        gone, small = cuda.mem_alloc(512), cuda.mem_alloc(16)
        address = int(gone)
        gone.free()
        for wrong in (0x10, address, small):
            assert not one.enqueue(y=wrong)
        assert one.enqueue(x=int(one.x) + 16) and one.enqueue(y=one.x)
        with pytest.raises(TypeError):
            one.context.set_tensor_address("x", 1.0)
        one.stream.synchronize()
        small.free()


def test_names_and_numbers_must_be_known():
    with misuse("no tensor 'z'"), pycuda_context() as cuda:
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        assert one.engine.get_tensor_mode("z") == trt.TensorIOMode.NONE
        assert not one.context.set_tensor_address("z", 256) and not one.context.set_input_shape("y", (2, 4))
    with misuse("no binding 2", "3 bindings for 2", tensorrt="8.2.1"), pycuda_context() as cuda:
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        with pytest.raises(IndexError):
            one.engine.get_binding_shape(2)
        assert one.engine.get_binding_index("z") == -1
        one.context.execute_async_v2([int(one.x), int(one.y), 0], one.stream.handle)
        one.stream.synchronize()


def test_streams_must_be_right():
    with misuse("0xbeef is no stream", "the default stream makes TensorRT synchronise"), pycuda_context() as cuda:
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        assert one.enqueue()
        one.stream.synchronize()
        assert not one.context.execute_async_v3(0xBEEF) and one.context.execute_async_v3(0)
        with pytest.raises(TypeError, match="int"):
            one.context.execute_async_v3(one.stream)
        cuda.Context.synchronize()


def test_every_thread_needs_the_context():
    with misuse("enqueued without a CUDA context"), pycuda_context() as cuda:
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(one.context.execute_async_v3(one.stream.handle)))
        thread.start()
        thread.join()
        assert answers == [False]
