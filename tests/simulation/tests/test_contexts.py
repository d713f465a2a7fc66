"""Execution contexts: the memory they work in, one thing at a time, optimization profiles, and CUDA graphs."""

import ctypes
import threading

import numpy as np
import pytest

from .. import RELEASES, simulated
from .helpers import IMAGES, PROFILE, Bound, X, build, doubled, linear, load, misuse, model, opened, pycuda_context

# -- memory to work in


def without_memory(engine, trt):
    if hasattr(trt, "ExecutionContextAllocationStrategy"):
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


def test_memory_of_ones_own_must_be_given():
    for release in RELEASES:
        words = ["made without device memory"] + ["not aligned"] * (release != "8.2.1")
        with misuse(*words, tensorrt=release), pycuda_context() as cuda:
            trt, _, plan = opened()
            engine = load(trt, plan)
            one = Bound(trt, cuda, plan, context=without_memory(engine, trt))
            newer = hasattr(engine, "device_memory_size_v2")
            size = engine.device_memory_size_v2 if newer else engine.device_memory_size
            assert size > 0 and not one.enqueue()
            memory = cuda.mem_alloc(size + 256)
            if release == "8.2.1":
                with pytest.raises(TypeError, match="capsule"):
                    one.context.device_memory = int(memory)
                with pytest.raises(AttributeError):
                    one.context.device_memory  # noqa: B018
                continue
            one.context.device_memory = int(memory) + 8
            one.context.device_memory = int(memory)
            assert one.enqueue()
            one.stream.synchronize()
            memory.free()


def test_8_2_takes_memory_in_a_capsule():
    with simulated(tensorrt="8.2.1"), pycuda_context() as cuda:
        trt, _, plan = opened()
        engine = load(trt, plan)
        one = Bound(trt, cuda, plan, context=without_memory(engine, trt))
        memory = cuda.mem_alloc(engine.device_memory_size)
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        one.context.device_memory = make(int(memory), None, None)
        assert (one.infer(X) == 2 * X).all()
        one.close()
        memory.free()
        del engine


def two_in_one_memory(cuda, trt, plan):
    engine = load(trt, plan)
    memory = cuda.mem_alloc(engine.device_memory_size_v2)
    pair = [Bound(trt, cuda, plan, context=without_memory(engine, trt)) for _ in range(2)]
    for one in pair:
        one.context.set_device_memory(int(memory), engine.device_memory_size_v2)
    return memory, pair


def test_two_contexts_may_share_memory_one_after_another():
    with simulated(), pycuda_context() as cuda:
        trt, _, plan = opened()
        memory, (first, second) = two_in_one_memory(cuda, trt, plan)
        assert first.enqueue() and second.enqueue(first.stream)
        first.stream.synchronize()
        first.close(), second.close()
        memory.free()


def test_two_contexts_may_not_share_memory_at_once():
    with misuse("race: inference with x, y", "writes"), pycuda_context() as cuda:
        trt, _, plan = opened()
        memory, (first, second) = two_in_one_memory(cuda, trt, plan)
        assert first.enqueue() and second.enqueue()
        cuda.Context.synchronize()
        memory.free()


def test_too_little_memory_is_refused():
    with misuse("made without device memory and needs"), pycuda_context() as cuda:
        trt, _, plan = opened()
        memory, (first, _) = two_in_one_memory(cuda, trt, plan)
        first.context.set_device_memory(int(memory), 8)
        assert not first.enqueue()
        memory.free()


# -- one thing at a time


def test_a_context_runs_on_one_stream_at_a_time():
    with misuse("an execution context itself"), pycuda_context() as cuda:
        trt, _, plan = opened(data=doubled(), profiles=(IMAGES,))
        one = Bound(trt, cuda, plan, (1, 3, 2, 2))
        y, other = cuda.mem_alloc(512), cuda.Stream(1)
        assert one.enqueue() and one.enqueue(other, y=y)
        cuda.Context.synchronize()
        y.free()


def test_a_context_belongs_to_one_thread_at_a_time():
    with misuse("used by two threads at once"), pycuda_context() as cuda:
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        context = cuda.Context.get_current()

        def use():
            context.push()
            for _ in range(2000):
                one.reshape((2, 4))
            context.pop()

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_a_context_outlives_its_work():
    with misuse("destroyed while its work was still queued", "used after it was freed"), pycuda_context() as cuda:
        trt, _, plan = opened()
        one = Bound(trt, cuda, plan)
        assert one.enqueue()
        one.context = None
        with pytest.raises(cuda.LogicError, match="illegal memory access"):
            one.stream.synchronize()


@pytest.mark.parametrize("release", ["8.2.1", "8.5.3"])
def test_before_8_6_a_profile_belongs_to_one_context(release, capsys):
    with misuse("no optimization profile is chosen", tensorrt=release), pycuda_context() as cuda:
        trt, _, plan = opened(profiles=(PROFILE, PROFILE))
        engine = load(trt, plan)
        first, second = engine.create_execution_context(), engine.create_execution_context()
        assert "Profile 0 has been chosen by another IExecutionContext" in capsys.readouterr().out
        one = Bound(trt, cuda, plan, None, context=second)
        assert not one.reshape((2, 4)) and not one.enqueue()
        with pytest.raises(RuntimeError, match="optimization profile"):
            second.set_optimization_profile_async(0, one.stream.handle)
        assert second.set_optimization_profile_async(1, one.stream.handle)
        if release == "8.2.1":
            assert engine.num_bindings == 4 and engine.get_binding_name(2) == "x [profile 1]"
            assert not second.set_binding_shape(0, (2, 4)) and second.set_binding_shape(2, (2, 4))
            assert second.execute_async_v2([0, 0, int(one.x), int(one.y)], one.stream.handle)
            one.stream.synchronize()
        del first
        assert engine.create_execution_context().active_optimization_profile == 0


@pytest.mark.parametrize("release", [r for r in RELEASES if int(r.split(".")[0]) >= 10])
def test_memory_for_the_shapes_that_are_set(release, capsys):
    """It is less than the greatest shapes take, and void when a shape changes."""
    with simulated(tensorrt=release), pycuda_context() as cuda:
        trt, _, plan = opened(profiles=({"x": ((1, 4), (2, 4), (64, 4))},))
        engine = load(trt, plan)
        context = without_memory(engine, trt)
        assert context.update_device_memory_size_for_shapes() == 0
        assert "not all shapes are specified" in capsys.readouterr().out
        one = Bound(trt, cuda, plan, context=context)
        one.engine = engine
        size = context.update_device_memory_size_for_shapes()
        assert 0 < size < engine.device_memory_size_v2
        scratch = cuda.mem_alloc(size)
        context.set_device_memory(int(scratch), size)
        assert (one.infer(X) == 2 * X).all()
        one.close()
        scratch.free()
        del engine, context
    with misuse("made without device memory", tensorrt=release), pycuda_context() as cuda:
        trt, _, plan = opened(profiles=({"x": ((1, 4), (2, 4), (64, 4))},))
        engine = load(trt, plan)
        context = without_memory(engine, trt)
        one = Bound(trt, cuda, plan, context=context)
        one.engine = engine
        size = context.update_device_memory_size_for_shapes()
        scratch = cuda.mem_alloc(size)
        context.set_device_memory(int(scratch), size)
        assert one.reshape((1, 4)) and not one.enqueue()
        one.close()
        scratch.free()
        del engine, context


def test_engines_without_free_dimensions_need_no_profile():
    """So any number of contexts may exist, before profiles could be shared too."""
    shape = {"x": [2, 4]}, {"y": [2, 4]}
    data = model([("Relu", ["x"], ["y"], {})], *shape)
    for release in ("8.2.1", "8.5.3"):
        with simulated(tensorrt=release), pycuda_context() as cuda:
            import tensorrt as trt

            first = Bound(trt, cuda, build(trt, data, ()), shape=None)
            second = Bound(trt, cuda, build(trt, data, ()), shape=None, context=first.engine.create_execution_context())
            second.engine = first.engine
            for bound in (first, second):
                assert (bound.infer(X - 3) == np.maximum(X - 3, 0)).all()
            second.close(), first.close()


def test_8_6_shares_profiles_when_asked_to_and_10_always(capsys):
    def ask(config):
        import tensorrt as trt

        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)

    for release, asked, shared in (("8.6.1", False, False), ("8.6.1", True, True), ("10.16.1", False, True)):
        with simulated(tensorrt=release), pycuda_context():
            trt, _, plan = opened(prepare=ask if asked else lambda config: None)
            engine = load(trt, plan)
            contexts = [engine.create_execution_context() for _ in range(2)]
            assert ("has been chosen" in capsys.readouterr().out) == (not shared)
            assert [c.active_optimization_profile for c in contexts] == [0, 0 if shared else -1]
            del engine, contexts


# -- graphs


class Graphed:
    """A context with an input and an output in a graph, through cuda-python."""

    def __init__(self):
        import tensorrt as trt
        from cuda.bindings import driver

        self.driver = driver
        driver.cuInit(0)
        driver.cuCtxPushCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
        self.stream = driver.cuStreamCreate(1)[1]
        self.buffers = [int(driver.cuMemAlloc(512)[1]) for _ in range(3)]
        self.context = load(trt, build(trt, linear())).create_execution_context()
        self.context.set_input_shape("x", (2, 4))
        self.place(*self.buffers[:2])
        driver.cuMemcpyHtoD(self.buffers[0], X, 32)
        driver.cuCtxSynchronize()

    def place(self, x, y):
        assert self.context.set_tensor_address("x", x) and self.context.set_tensor_address("y", y)

    def capture(self):
        mode = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        assert self.driver.cuStreamBeginCapture(self.stream, mode)[0] == 0
        enqueued = self.context.execute_async_v3(int(self.stream))
        status, graph = self.driver.cuStreamEndCapture(self.stream)
        return enqueued, status, graph if status else self.driver.cuGraphInstantiate(graph, 0)[1]

    def read(self, buffer):
        answer = np.zeros_like(X)
        self.driver.cuStreamSynchronize(self.stream)
        self.driver.cuMemcpyDtoH(answer, buffer, 32)
        return answer


def test_a_captured_run_repeats_with_its_own_addresses():
    with simulated(cuda="cuda-python 13.0", leaks=False):
        one = Graphed()
        assert one.context.execute_async_v3(int(one.stream))
        _, _, graph = one.capture()
        one.place(one.buffers[0], one.buffers[2])  # the graph keeps the old place
        one.driver.cuMemsetD8Async(one.buffers[1], 0, 32, one.stream)
        assert one.driver.cuGraphLaunch(graph, one.stream)[0] == 0
        assert (one.read(one.buffers[1]) == 2 * X).all() and np.isnan(one.read(one.buffers[2])).all()


def test_the_first_run_after_a_change_of_shapes_cannot_be_captured():
    with misuse("the first run after a change of shapes cannot be captured", cuda="cuda-python 13.0"):
        one = Graphed()
        for _ in range(2):
            enqueued, status, _ = one.capture()
            assert not enqueued and status == one.driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
            assert one.context.execute_async_v3(int(one.stream)) and one.capture()[:2] == (True, 0)
            one.context.set_input_shape("x", (1, 4))
        one.driver.cuStreamSynchronize(one.stream)


def test_a_graph_needs_its_context():
    with misuse("launched after its execution context was destroyed", "failed when it ran", cuda="cuda-python 13.0"):
        one = Graphed()
        one.context.execute_async_v3(int(one.stream))
        _, _, graph = one.capture()
        one.driver.cuStreamSynchronize(one.stream)
        one.context = None
        one.driver.cuGraphLaunch(graph, one.stream)
        one.driver.cuStreamSynchronize(one.stream)
