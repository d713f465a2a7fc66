"""Errors, devices and contexts of the `pycuda.driver` double, and whom an object belongs to.

After src/cpp/cuda.hpp and src/wrapper/wrap_cudadrv.cpp of inducer/pycuda (v2020.1 to v2026.1 agree on all that is
here). What it imitates beyond the calls:

- A thread has a stack of contexts of its own; without one every call is a LogicError.
- What a context made is freed only in a thread that has that very Context object on top, or in the thread that made
  the Context; elsewhere it is a UserWarning and a leak (`scoped_context_activation`).
- A thread that ends with a context still pushed aborts the process (`context_stack::~context_stack`).
"""

import threading
import warnings
from enum import Enum
from typing import Any

from ..device import codes
from ..device.memory import Fault

_device: Any = None  # of the simulation that is on; what a program made keeps the device that it made it on


def device():
    """The device of the simulation that is on."""
    if _device is None:
        raise LogicError(f"cuInit failed: {codes.text('NOT_INITIALIZED')} [the simulation is over]")
    return _device


def start(simulated):
    global _device
    _device = simulated


def finish():
    """What the end of the process would find in the calling thread."""
    global _device
    stack = _stack()
    if stack.contexts:
        _device.error("a context is still pushed at the end: pycuda aborts the process (call pop)")
        stack.contexts.clear()
    _device = None


class ArgumentError(TypeError):
    """Boost.Python.ArgumentError: Python argument types did not match the C++ signature."""


class Error(Exception):
    pass


class CudaMemoryError(Error):
    pass


class LogicError(Error):
    pass


class CudaRuntimeError(Error):
    pass


_KINDS = {"OUT_OF_MEMORY": CudaMemoryError, "NO_DEVICE": CudaRuntimeError, "NOT_READY": CudaRuntimeError}


def guarded(routine, call, *args):
    """Run a call with the device's lock; a Fault becomes the error that pycuda makes of its code."""
    with device().lock:
        try:
            return call(*args)
        except Fault as fault:
            # Real messages end before the bracket; the simulation's reason is worth reading in a test's output.
            reason = f" [{fault.detail}]" if fault.detail else ""
            kind = _KINDS.get(fault.code, LogicError)
            raise kind(f"{routine} failed: {codes.text(fault.code)}{reason}") from None


def init(flags=0):
    guarded("cuInit", device().check_driver)
    device().initialised = True


def get_driver_version():
    return 10020


# -- contexts


class _Stack:
    """The Contexts that one thread pushed. CUDA itself only ever sees the top one."""

    def __init__(self, device):
        self.device, self.contexts = device, []

    def settle(self):
        self.device.stack[:] = [context._inner for context in self.contexts[-1:]]

    def __del__(self):
        if self.contexts and not self.device.over:
            self.device.error("a thread ended with a context still pushed: pycuda aborts the process (call pop)")


def _stack(on=None):
    """The calling thread's stack."""
    on = on or device()
    if not hasattr(on.thread, "pycuda"):
        on.thread.pycuda = _Stack(on)
    return on.thread.pycuda


class Context:
    _inner: Any
    _valid: bool
    _thread: int

    def __init__(self):
        raise ArgumentError("this class cannot be instantiated from Python")

    @classmethod
    def _of(cls, inner):
        made = object.__new__(cls)
        made._inner, made._valid, made._thread = inner, True, threading.get_ident()
        return made

    def push(self):
        guarded("cuCtxPushCurrent", self._push)

    def _push(self):
        if not self._inner.alive:
            raise Fault("INVALID_CONTEXT", "the context was destroyed")
        _stack().contexts.append(self)
        _stack().settle()

    @staticmethod
    def pop():
        stack = _stack()
        if not stack.contexts:
            reason = "cannot pop non-current context"
            raise LogicError(f"context::pop failed: {codes.text('INVALID_CONTEXT')} - {reason}")
        stack.contexts.pop()
        stack.settle()

    def detach(self):
        if not self._valid:
            reason = "cannot detach from invalid context"
            raise LogicError(f"context::detach failed: {codes.text('INVALID_CONTEXT')} - {reason}")
        self._valid = False
        guarded("cuCtxDetach", device().release_primary)
        stack = _stack()
        stack.contexts[:] = [context for context in stack.contexts if context._valid]
        stack.settle()

    @staticmethod
    def get_current():
        return (_stack().contexts or [None])[-1]

    @staticmethod
    def synchronize():
        guarded("cuCtxSynchronize", lambda: (device().need_context(), device().timeline.wait_all()))

    def __eq__(self, other):
        return isinstance(other, Context) and other._inner is self._inner

    def __hash__(self):
        return hash(id(self._inner))


class device_attribute(Enum):
    INTEGRATED = 18


class Device:
    def __init__(self, ordinal):
        guarded("cuDeviceGet", self._check, ordinal)

    @staticmethod
    def _check(ordinal):
        if not device().initialised:
            raise Fault("NOT_INITIALIZED")
        if ordinal != 0:
            raise Fault("INVALID_DEVICE")

    @staticmethod
    def count():
        guarded("cuDeviceGetCount", Device._check, 0)
        return 1

    def name(self):
        return device().name

    def compute_capability(self):
        return divmod(device().sm, 10)

    def get_attribute(self, attr):
        if not isinstance(attr, device_attribute):
            raise ArgumentError(f"an attribute is a pycuda.driver.device_attribute, not {attr!r}")
        return int(device().integrated)

    def retain_primary_context(self):
        return Context._of(guarded("cuDevicePrimaryCtxRetain", device().retain_primary))


class Dependent:
    """What belongs to the Context that is on top when it is made (`context_dependent`)."""

    def _acquire(self):
        if not _stack().contexts:
            reason = "no currently active context?"
            raise LogicError(f"explicit_context_dependent failed: {codes.text('INVALID_CONTEXT')} - {reason}")
        self._owner, self._on, self._freed = _stack().contexts[-1], device(), False

    def _clean_up(self, what, call, *args):
        """Free it in its own Context, or warn and leak."""
        if self._freed or self._on.over or not (self._owner._valid and self._owner._inner.alive):
            return
        self._freed = True
        stack = _stack(self._on)
        pushed = stack.contexts[-1:] != [self._owner] or stack.contexts[-1] is not self._owner
        if pushed and self._owner._thread != threading.get_ident():
            self._on.error(f"{what} was freed in a thread that lacks its Context: pycuda leaks it")
            warnings.warn(f"{what} in out-of-thread context could not be cleaned up", UserWarning, stacklevel=3)
            return
        if pushed:
            stack.contexts.append(self._owner)
            stack.settle()
        try:
            with self._on.lock:
                call(*args)
        except Fault as fault:
            self._on.error(f"cleaning up {what} failed: {fault}")
        finally:
            if pushed:
                stack.contexts.pop()
                stack.settle()
