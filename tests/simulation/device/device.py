"""One simulated GPU: what the doubles of pycuda, cuda-python and TensorRT share.

Every call that a program makes goes through here with the lock held. What real CUDA would refuse raises Fault, which
each double turns into its own kind of error; what real CUDA would leave undefined is written into `errors`.
"""

import sys
import threading
import zlib
from itertools import count
from pathlib import Path
from types import FrameType

import numpy as np

from .memory import FIRST, Fault, Store
from .queues import Access, Event, Stream, Timeline, Work

ROOM = Path(__file__).parents[1]


class Context:
    """A CUDA context."""

    def __init__(self, handle):
        self.handle, self.alive = handle, True


class Host:
    """Host memory of a copy: its bytes, and where in which pinned allocation they lie (None: pageable)."""

    def __init__(self, data, pinned):
        self.data, self.pinned = data, pinned

    def put(self, data):
        """Write as the device does; a shadow remembers what it wrote."""
        self.data[: len(data)] = data
        if self.pinned is not None:
            allocation, offset = self.pinned
            allocation.shadow[offset : offset + len(data)] = data

    def is_untouched(self, size):
        """Nobody but the device wrote here since the copy was launched."""
        if self.pinned is None:
            return True
        allocation, offset = self.pinned
        return bool((allocation.shadow[offset : offset + size] == self.data[:size]).all())


class Device:
    """errors: misuse seen so far. timeline.waits: waits of the host. To make things fail: store.fail_at is the number
    of an allocation, fail_run that of an engine's run; timeline.fault is what a kernel that went wrong leaves."""

    def __init__(self, name="Orin", sm=87, memory=8 << 30, driver="present", integrated=True):
        self.name, self.sm, self.memory, self.driver = name, sm, memory, driver
        self.integrated = integrated
        self.lock = threading.RLock()
        self.errors = []
        self.store = Store(memory, integrated)
        self.timeline = Timeline(self.store, self.error)
        self.initialised = False
        self.over = False  # the simulation has ended: what is still there may die in peace
        self.primary = None
        self.primary_flags = 0
        self.retained = 0
        self.thread = threading.local()
        self.runs = 0  # of engines, enqueued or refused
        self.fail_run = None
        self.events = {}
        self.executables = {}
        self.handles = count(0x7F5A_0000_A000, 0x10)  # pointers, of which an int of C keeps the lower half

    # -- errors

    def error(self, text):
        self.errors.append(f"{text} [{caller()}, {threading.current_thread().name}]")

    def check_driver(self, runtime=False):
        """cuInit's answer; the runtime API words a driver that does not fit in its own way."""
        if self.driver == "old":
            raise Fault("INSUFFICIENT_DRIVER" if runtime else "SYSTEM_DRIVER_MISMATCH")
        if self.name is None or self.driver == "missing":
            raise Fault("NO_DEVICE" if self.driver == "present" else "INSUFFICIENT_DRIVER")

    # -- contexts

    @property
    def stack(self):
        if not hasattr(self.thread, "stack"):
            self.thread.stack = []
        return self.thread.stack

    def retain_primary(self):
        if self.primary is None:
            self.primary = Context(next(self.handles))
        self.retained += 1
        return self.primary

    def set_primary_flags(self, ordinal, flags, version):
        """How threads wait, and what else a context is told. Before CUDA 11 it must not be active."""
        if ordinal != 0:
            raise Fault("INVALID_DEVICE")
        if flags & 7 not in (0, 1, 2, 4) or flags >> 5:
            raise Fault("INVALID_VALUE", f"{flags:#x} is no combination of CU_CTX_...")
        if self.primary is not None and version < 11000:
            raise Fault("PRIMARY_CONTEXT_ACTIVE")
        self.primary_flags = flags

    def release_primary(self):
        if self.retained == 0:
            raise Fault("INVALID_CONTEXT", "the primary context was not retained")
        self.retained -= 1
        if self.retained == 0:
            self.destroy(self.primary)
            self.primary = None

    def destroy(self, context):
        """Whatever was made in a context goes with it."""
        for allocation in [a for a in self.store.alive() if a.context is context and a.kind != "pinned"]:
            self.error(f"leak: the context was destroyed before {allocation} was freed")
            self.store.give_back(allocation.address, ("device", "private"))
        context.alive = False

    def current(self):
        """The calling thread's context, None where it has none."""
        return self.stack[-1] if self.stack else None

    def need_context(self):
        if not self.initialised:
            raise Fault("NOT_INITIALIZED")
        context = self.current()
        if context is None:
            raise Fault("INVALID_CONTEXT", "no context is current in this thread")
        if not context.alive:
            raise Fault("CONTEXT_IS_DESTROYED")
        if self.timeline.fault is not None:
            raise self.timeline.fault
        return context

    # -- memory

    def allocate(self, size, kind="device", label="", mapped=False):
        context = self.need_context()
        self.timeline.forbid_in_capture("an allocation")
        if size == 0:
            raise Fault("INVALID_VALUE", "0 bytes asked for")
        return self.store.take(size, kind, label or f"made at {caller()}", context, mapped)

    def mapped_address(self, address):
        """Where the device finds page-locked memory. It need not be where the host does."""
        self.need_context()
        found = self.store.pinned(address, 1)
        if found is None or found[0].device_address is None:
            raise Fault("INVALID_VALUE", f"{address:#x} is not in page-locked memory that was mapped")
        allocation, offset = found
        return allocation.device_address + offset

    def free(self, address, kinds=("device",)):
        self.need_context()
        self.timeline.forbid_in_capture("freeing")
        allocation = self.store.give_back(address, kinds)
        for work in self.timeline.queued():
            if any(access.allocation is allocation for access in work.accesses):
                self.error(f"{allocation} was freed while {work.name} was still queued")
                break

    def memory_info(self):
        self.need_context()
        return self.memory - self.store.used, self.memory

    # -- streams and events

    def make_stream(self, blocking=True):
        stream = Stream(next(self.handles), self.need_context(), blocking, caller())
        self.timeline.streams[stream.handle] = stream
        return stream

    def stream(self, handle):
        """The stream of a handle: 0 and 1 are the default stream."""
        context = self.need_context()
        stream = self.timeline.streams.get(0 if handle == 1 else handle)
        if stream is None or (stream.context is not None and stream.context is not context):
            raise Fault("INVALID_HANDLE", f"{handle:#x} is no stream of the current context")
        return stream

    def make_event(self):
        event = Event(next(self.handles), self.need_context())
        self.events[event.handle] = event
        return event

    def event(self, handle):
        context = self.need_context()
        event = self.events.get(handle)
        if event is None or event.context is not context:
            raise Fault("INVALID_HANDLE", f"{handle:#x} is no event of the current context")
        return event

    # -- copies

    def host(self, data):
        """Host memory as one end of a copy. data: uint8, one-dimensional, sharing the program's memory."""
        found = self.store.pinned(data.ctypes.data, len(data))
        return Host(data, found)

    def device_access(self, address, size, written):
        if address < FIRST:
            raise Fault("INVALID_VALUE", f"{address:#x} is no device address")
        allocation, offset = self.store.device(address, size)
        return Access(allocation, offset, offset + size, written)

    def copy(self, target, source, size, stream, waits=False):
        """Copy between device addresses (int) and Hosts.

        waits: the call is not one of the Async ones. Those too make the host wait where the memory is pageable. A copy
        from pageable memory is done with the host's bytes when it returns, but need not have arrived. See "API
        synchronization behavior" in the CUDA runtime API's manual.
        """
        ends = [end for end in (target, source) if isinstance(end, Host)]
        pageable = [end for end in ends if end.pinned is None]
        blocks = bool(ends) and (waits or bool(pageable))
        what = "copy" if waits else "pageable copy"
        if blocks and isinstance(source, Host):
            self.timeline.wait_stream(stream, what)
        snapshot = bytes(source.data[:size]) if source in pageable else None
        self.timeline.submit(stream, self._copying(target, source, size, snapshot))
        if blocks and isinstance(target, Host):
            self.timeline.wait_stream(stream, what)

    def _copying(self, target, source, size, snapshot):
        """The work of one copy; what it needs of the host is looked at when it is launched and when it runs."""
        ends = []
        for end, written in ((target, True), (source, False)):
            if not isinstance(end, Host):
                ends.append(self.device_access(end, size, written))
            elif len(end.data) < size:
                raise Fault("INVALID_VALUE", f"{size} bytes of a host buffer of {len(end.data)}")
            elif end.pinned is not None:
                allocation, offset = end.pinned
                ends.append(Access(allocation, offset, offset + size, written))
        launched = {}

        def begin():
            if isinstance(target, Host):
                if target.pinned is None:
                    target.put(np.full(size, 0xFF, np.uint8))
            elif snapshot is None and isinstance(source, Host):
                launched["sum"] = zlib.crc32(source.data[:size].tobytes())

        def run():
            if snapshot is not None:
                data = np.frombuffer(snapshot, np.uint8)
            else:
                data = source.data[:size] if isinstance(source, Host) else self.read(source, size)
            if launched and zlib.crc32(data.tobytes()) != launched["sum"]:
                self.error("the host changed page-locked memory before the copy from it had happened")
            if isinstance(target, Host):
                if not target.is_untouched(size):
                    self.error("the host wrote into page-locked memory before the copy into it had happened")
                target.put(data)
            else:
                self.write(target, data)

        kind = "".join("H" if isinstance(end, Host) else "D" for end in (source, target))
        return Work(f"copy {kind[0]}to{kind[1]} of {size} bytes", run, tuple(ends), begin)

    def host_reads(self, allocation, start, end):
        """The program looks at page-locked memory: nothing queued may be going to write there."""
        with self.lock:
            name = self.queued_on(allocation, start, end - start, written=True)
            if name:
                self.error(f"the host read page-locked memory before this had happened: {name}")

    def queued_on(self, allocation, start, size, written=False):
        """The name of queued work that reads (or writes) these bytes, None if there is none."""
        for work in self.timeline.queued():
            for access in work.accesses:
                overlaps = access.start < start + size and start < access.end
                if access.allocation is allocation and access.written == written and overlaps:
                    return work.name
        return None

    def read(self, address, size):
        allocation, offset = self.store.device(address, size)
        return allocation.data[offset : offset + size]

    def write(self, address, data):
        allocation, offset = self.store.device(address, len(data))
        place = slice(offset, offset + len(data))
        if allocation.shadow is not None:
            if not (allocation.shadow[place] == allocation.data[place]).all():
                self.error("the host wrote into page-locked memory before the device had written there")
            allocation.shadow[place] = data
        allocation.data[place] = data

    def fill(self, address, pattern, size, stream):
        access = self.device_access(address, size, True)
        data = np.full(size, pattern, np.uint8)
        self.timeline.submit(stream, Work(f"memset of {size} bytes", lambda: self.write(address, data), (access,)))

    # -- the end

    def left(self):
        """What was made and is still there."""
        found = ["a pushed context"] if getattr(self.thread, "pushed", 0) else []
        found += [f"{stream} made at {stream.where}" for stream in self.timeline.streams.values() if stream.handle]
        found += [f"{len(self.events)} events"] if self.events else []
        found += [f"{len(self.executables)} graphs"] if self.executables else []
        return found + [repr(allocation) for allocation in self.store.alive()]


def caller():
    """file:line of the nearest caller outside this simulation."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.name.startswith("test_") or ROOM not in path.parents:
            return f"{path.parent.name}/{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
