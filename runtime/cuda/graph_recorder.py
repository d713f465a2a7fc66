"""CUDA graphs by the driver library, on the stream of any binding: pycuda has streams, and no graphs."""

import ctypes
from typing import Any, Callable

from .libcuda import Driver

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may reserve memory meanwhile


class GraphRecorder:
    """Streams are what CUDA takes: a number, or a c_void_p. Every call needs the context pushed."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def capture(self, stream: Any, work: Callable[[], None]) -> ctypes.c_void_p:
        """A graph of what `work` puts into the stream; none of it is run. Raises BackendError where CUDA fails, and
        what `work` raises."""
        driver, call = self._driver, self._driver.call
        recorded = ctypes.c_void_p()
        driver.check("record a graph", call.cuStreamBeginCapture(stream, _THREAD_LOCAL))
        try:
            work()
        except BaseException:
            # The stream is itself again, whatever this answers.
            if call.cuStreamEndCapture(stream, ctypes.byref(recorded)) == 0:
                call.cuGraphDestroy(recorded)
            raise
        driver.check("record a graph", call.cuStreamEndCapture(stream, ctypes.byref(recorded)))
        try:
            return self._instantiate(recorded)
        finally:
            call.cuGraphDestroy(recorded)

    def launch(self, graph: ctypes.c_void_p, stream: Any) -> None:
        """Put a run of the graph into the stream."""
        status = self._driver.call.cuGraphLaunch(graph, stream)
        if status:
            raise self._driver.error("launch a graph", status)

    def drop(self, graph: ctypes.c_void_p) -> None:
        """Free a graph."""
        self._driver.check("free a graph", self._driver.call.cuGraphExecDestroy(graph))

    def _instantiate(self, recorded: ctypes.c_void_p) -> ctypes.c_void_p:
        call, made = self._driver.call, ctypes.c_void_p()
        if call.cuGraphInstantiateWithFlags is not None:  # from CUDA 11.4 on
            status = call.cuGraphInstantiateWithFlags(ctypes.byref(made), recorded, 0)
        else:
            node = ctypes.c_void_p()
            status = call.cuGraphInstantiate(ctypes.byref(made), recorded, ctypes.byref(node), None, 0)
        self._driver.check("make a graph", status)
        return made
