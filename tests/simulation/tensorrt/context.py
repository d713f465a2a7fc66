"""The execution context of the `tensorrt` double: shapes, addresses, scratch memory, and runs on a stream.

Each run is work on the simulated timeline with what it reads and writes, so runs that nothing puts in order are found:
two on one buffer, two contexts in the same scratch memory, one context on two streams. include/NvInferRuntime.h says
what must be set before enqueueV2 and enqueueV3, and that the first run after a change of shapes cannot be captured.
"""

import ctypes
import threading
import time
from typing import Any

from ..device.memory import Allocation, Fault
from ..device.queues import Access, Work
from . import formats, session
from .plan import scratch_bytes
from .types import dims, pointer


class State:
    """What queued work needs of its context: it must be alive, and do one thing at a time."""

    def __init__(self):
        self.alive = True
        self.place = Allocation(0, b"", "private", "an execution context itself", None)


class IExecutionContext:
    _home: Any

    def __init__(self):
        raise TypeError("tensorrt.IExecutionContext: No constructor defined!")

    def _setup(self, engine, memory, owns_memory):
        self._engine, self._memory, self._owns_memory = engine, memory, owns_memory
        self._scratch = None  # (address, size) that the program provides
        self._laid_out = None  # the bytes that the memory was laid out in for the shapes as they are
        self._state, self._lock = State(), threading.Lock()
        self._addresses, self._shapes, self._settled = {}, {}, False
        self._profile = None
        shares = engine._plan.meta["shares_profiles"]
        if shares or self._home.live(engine._taken.get(0)) is None:
            self._choose(0)
        else:
            text = "Profile 0 has been chosen by another IExecutionContext. Use another profileIndex or destroy it."
            self._home.log("ERROR", text)
        return self

    def __del__(self):
        if not hasattr(self, "_state"):
            return
        device = self._home.device
        with device.lock:
            if any(a.allocation is self._state.place for w in device.timeline.queued() for a in w.accesses):
                device.error("an execution context was destroyed while its work was still queued")
            self._state.alive = False
        if self._memory is not None:
            self._home.give_back(self._memory)

    def _choose(self, profile):
        self._profile = profile
        self._engine._taken[profile] = self._state
        tensors = [t for t in self._engine._tensors if t["input"]]
        self._shapes = {t["name"]: tuple(t["shape"]) for t in tensors if -1 not in t["shape"]}

    def _enter(self):
        """One thread at a time; another may come in wherever Python would let it."""
        if not self._lock.acquire(blocking=False):
            self._home.device.error("an IExecutionContext is used by two threads at once")
            self._lock.acquire()
        time.sleep(0)

    def _refuse(self, text):
        """A call that real TensorRT answers with False and a line in the log."""
        self._home.log("ERROR", text)
        return False

    # -- profile, shapes, addresses, memory

    @property
    def active_optimization_profile(self):
        return -1 if self._profile is None else self._profile

    def set_optimization_profile_async(self, profile_index, stream_handle):
        pointer(stream_handle)
        taken = self._home.live(self._engine._taken.get(profile_index))
        free = self._engine._plan.meta["shares_profiles"] or taken in (None, self._state)
        if not (0 <= profile_index < len(self._engine._profiles) and free):
            self._home.log("ERROR", f"Profile {profile_index} has been chosen by another IExecutionContext")
            raise RuntimeError("Error in set optimization profile async.")
        self._choose(profile_index)
        self._settled = False
        return True

    def set_input_shape(self, name, shape):
        self._enter()
        try:
            return self._set_shape(self._engine._tensor(name), dims(shape))
        finally:
            self._lock.release()

    def set_binding_shape(self, binding, shape):
        self._engine._old()
        profile, tensor = self._engine._binding(binding)
        if profile != self._profile:
            return self._refuse(f"binding {binding} is not of the context's optimization profile")
        self._enter()
        try:
            return self._set_shape(tensor, dims(shape))
        finally:
            self._lock.release()

    def _set_shape(self, tensor, shape):
        if self._profile is None:
            return self._refuse("Parameter check failed: an optimization profile must be chosen first")
        if tensor is None or not tensor["input"]:
            return self._refuse("Parameter check failed: not an input")
        low, _, high = self._engine._profiles[self._profile][tensor["name"]]
        fits = len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if not fits:
            return self._refuse(f"Supplied dimensions {shape} of {tensor['name']} are not in [{low}, {high}]")
        if self._shapes.get(tensor["name"]) != shape:
            self._shapes[tensor["name"]] = shape
            self._settled, self._laid_out = False, None
        return True

    def update_device_memory_size_for_shapes(self):
        """What the shapes need, 0 after an error in the log. Another shape afterwards makes it void."""
        if [t["name"] for t in self._engine._tensors if t["input"] and t["name"] not in self._shapes]:
            self._refuse("Parameter check failed: not all shapes are specified")
            return 0
        self._laid_out, self._settled = scratch_bytes(self._engine._plan.meta, self._shapes.values()), False
        return self._laid_out

    def set_tensor_address(self, name, memory):
        address = pointer(memory)
        if self._engine._tensor(name) is None:
            return False
        self._enter()
        self._addresses[name] = address
        self._lock.release()
        return True

    def _set_device_memory(self, memory):
        if self._home.api.number < (8, 5):  # bound as void*, which pybind11 takes from a capsule or None only
            if type(memory).__name__ not in ("PyCapsule", "NoneType"):
                raise TypeError("incompatible function arguments: device_memory is a capsule in this release")
            get = ctypes.pythonapi.PyCapsule_GetPointer
            get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
            memory = 0 if memory is None else get(memory, None)
        self._provide(memory, self._engine._plan.meta["scratch"])

    device_memory = property(None, _set_device_memory)

    def set_device_memory(self, memory, size):
        self._provide(memory, size)

    def _provide(self, memory, size):
        address = pointer(memory)
        if address % 256:
            self._home.device.error(f"device memory at {address:#x} is not aligned to 256 bytes")
        if self._owns_memory:
            self._home.device.error("device memory was given to a context that has its own")
        self._scratch, self._settled = (address, size), False

    # -- running

    def execute_async_v3(self, stream_handle):
        for tensor in self._engine._tensors:
            if self._addresses.get(tensor["name"], 0) % 256:
                self._home.device.error(f"the address of {tensor['name']} is not aligned to 256 bytes")
        return self._enqueue(self._addresses, pointer(stream_handle))

    def execute_async_v2(self, bindings, stream_handle, input_consumed=None):
        if input_consumed is not None:
            raise NotImplementedError("input_consumed is not simulated")
        addresses, tensors = [pointer(b) for b in bindings], self._engine._tensors
        if len(addresses) != len(tensors) * len(self._engine._profiles):
            self._home.device.error(f"{len(addresses)} bindings for {len(tensors)}: TensorRT reads past the end")
        own = addresses[(self._profile or 0) * len(tensors) :]
        return self._enqueue({t["name"]: a for t, a in zip(tensors, own, strict=False)}, pointer(stream_handle))

    def _enqueue(self, addresses, stream_handle):
        home, device = self._home, self._home.device
        self._enter()
        try:
            problem = home.no_context()
            if problem:
                device.error(f"enqueued without a CUDA context: {problem}")
                return self._refuse(problem)
            with device.lock:
                device.runs += 1
                if device.runs - 1 == device.fail_run:
                    return self._refuse("Cask Error in checkCaskExecError: a test asked for it")
                try:
                    stream = device.stream(stream_handle)
                    work = self._work(addresses)
                except Fault as fault:
                    device.error(f"enqueued in vain: {fault}")
                    return self._refuse(str(fault))
                if stream is device.timeline.default:
                    device.error("the default stream makes TensorRT synchronise: use one of your own")
                if stream.capture is not None and not self._settled:
                    stream.capture.broken = "the first run after a change of shapes cannot be captured"
                    device.error(f"{stream.capture.broken}: run it once before")
                    return self._refuse(stream.capture.broken)
                device.timeline.submit(stream, work)
                self._settled = self._settled or stream.capture is None
                return True
        finally:
            self._lock.release()

    def _work(self, addresses):
        """The run as it is set up now. Whatever is missing is a Fault."""
        if self._profile is None:
            raise Fault("INVALID_VALUE", "no optimization profile is chosen")
        missing = [t["name"] for t in self._engine._tensors if t["input"] and t["name"] not in self._shapes]
        if missing:
            raise Fault("INVALID_VALUE", f"not all shapes are specified: {missing}")
        plan, device = self._engine._plan, self._home.device
        shapes = {**self._shapes, **session.output_shapes(plan, self._shapes)}
        places, accesses = {}, []
        for tensor in self._engine._tensors:
            name, address = tensor["name"], addresses.get(tensor["name"], 0)
            if not address:
                raise Fault("INVALID_VALUE", f"the address of {name} is not set")
            size = formats.nbytes(tensor["layout"], tensor["dtype"], shapes[name])
            accesses.append(device.device_access(address, size, not tensor["input"]))
            places[name] = (tensor, address, size, shapes[name])
        accesses += self._memory_accesses()
        _check_overlap(accesses, device)
        state = self._state
        accesses.append(Access(state.place, 0, 1, True))

        def begin():
            if not state.alive:
                device.error("a captured graph was launched after its execution context was destroyed")

        def run():
            feeds = {
                name: formats.unpack(tensor["layout"], device.read(address, size), tensor["dtype"], shape)
                for name, (tensor, address, size, shape) in places.items()
                if tensor["input"]
            }
            for name, array in session.run(plan, feeds).items():
                tensor, address = places[name][:2]
                device.write(address, formats.pack(tensor["layout"], array.astype(formats.NUMPY[tensor["dtype"]])))

        return Work(f"inference with {', '.join(places)}", run, tuple(accesses), begin)

    def _memory_accesses(self):
        """Weights are read, scratch memory is written."""
        weights, size = self._engine._memory, self._engine._plan.meta["scratch"]
        if self._laid_out is not None and not self._owns_memory:
            size = self._laid_out
        accesses = [Access(weights, 0, weights.size, False)]
        if self._memory is not None:
            accesses.append(Access(self._memory, 0, size, True))
        elif size and not self._owns_memory:
            if self._scratch is None or not self._scratch[0] or self._scratch[1] < size:
                raise Fault("INVALID_VALUE", f"the context was made without device memory and needs {size} bytes")
            accesses.append(self._home.device.device_access(self._scratch[0], size, True))
        return accesses


def _check_overlap(accesses, device):
    """What a run writes may be nothing else of the same run."""
    for i, one in enumerate(accesses):
        for other in accesses[i + 1 :]:
            if (
                (one.written or other.written)
                and one.allocation is other.allocation
                and one.start < other.end
                and other.start < one.end
            ):
                device.error(f"one run uses the same bytes twice: {one.start} to {one.end} of {one.allocation}")
