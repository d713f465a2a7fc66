"""Simulated memory: device addresses are integers that mean nothing to the host, pinned host memory is real.

Page-locked memory that is mapped has a device address besides, another than the host's. An integrated GPU has no memory
of its own: there what is pinned, and what libraries take when they are loaded, comes out of the same memory.

Addresses are never given twice, so whatever is used after it was freed is recognised. Fresh memory holds 0xff
everywhere, which read as float16 or float32 is NaN. Every access carries the moment of the simulated time line at
which it happens (see queues.py), so that two accesses which nothing puts in order are found, whatever the order in
which this simulation happens to run them.
"""

from bisect import bisect_right

import numpy as np

FIRST = 0x0D00_0000_0000_0000  # not a canonical address: the host crashes on it, as it does on a real device pointer
GUARD = 4096
GRAIN = 512  # cudaMalloc's alignment; TensorRT asks for 256
PAGE = 4096  # of the host, which pins whole ones


class Fault(Exception):
    """A CUDA call fails with `code`, the driver API's name without CUDA_ERROR_."""

    def __init__(self, code, detail=""):
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Allocation:
    """kind: "device", "pinned", or "private" (TensorRT's own: weights and scratch memory). device_address: of pinned
    memory that is mapped."""

    def __init__(self, address, data, kind, label, context):
        self.address, self.data, self.kind, self.label, self.context = address, data, kind, label, context
        self.size = len(data)
        self.shadow = None  # of pinned memory: what the device wrote last
        self.device_address = None
        self.touched = {}  # (start, end, stream, written) -> number of the stream's work

    def __repr__(self):
        return f"{self.size} bytes of {self.kind} memory at {self.address:#x} ({self.label})"


class Store:
    """All allocations, past and present. limit: bytes of memory that the device can use; shared: the system's memory is
    the device's. account: bytes that are held, by kind, those of libraries among them; used, peak: how many of them,
    now and at most, count against the limit."""

    def __init__(self, limit, shared=True):
        self.limit, self.shared = limit, shared
        self.account = dict.fromkeys(("device", "private", "pinned", "library"), 0)
        self.peak = 0
        self._loaded = set()
        self.made = 0
        self.fail_at = None  # the number of the allocation that fails for want of memory, counted from 0
        self._next = FIRST
        self._starts = []  # of device memory, ascending because addresses only grow
        self._all = []
        self._freed = set()
        self._pinned = {}

    @property
    def used(self):
        return sum(self.account[kind] for kind in self.account if self.shared or kind in ("device", "private"))

    def load(self, library, size):
        """A library takes memory when it is loaded first, and keeps it. Fault OUT_OF_MEMORY beyond the limit."""
        if library not in self._loaded:
            self._count("library", size)
            self._loaded.add(library)

    def take(self, size, kind, label="", context=None, mapped=False):
        """A new allocation; Fault OUT_OF_MEMORY beyond the limit. mapped: pinned memory gets a device address."""
        number, self.made = self.made, self.made + 1
        if number == self.fail_at:
            raise Fault("OUT_OF_MEMORY", "a test asked for it")
        self._count(kind, _rounded(size, kind))
        data = np.full(size, 0xFF, np.uint8)
        if kind == "pinned":
            allocation = Allocation(data.ctypes.data, data, kind, label, context)
            allocation.shadow = data.copy()
            self._pinned[allocation.address] = allocation
            if mapped:
                allocation.device_address = self._place(allocation)
            return allocation
        allocation = Allocation(self._next, data, kind, label, context)
        self._place(allocation)
        return allocation

    def _count(self, kind, size):
        before, self.account[kind] = self.account[kind], self.account[kind] + size
        if self.used > self.limit:
            self.account[kind] = before
            raise Fault("OUT_OF_MEMORY", f"{size} bytes asked for, {self.limit - self.used} are free")
        self.peak = max(self.peak, self.used)

    def _place(self, allocation):
        """Give it the next device address."""
        start = self._next
        self._next = -(-(start + allocation.size + GUARD) // GRAIN) * GRAIN
        self._starts.append(start)
        self._all.append(allocation)
        return start

    def give_back(self, address, kinds=("device",)):
        """Free what starts at the address; Fault INVALID_VALUE for anything else, double frees among it."""
        allocation = self._pinned.get(address) if "pinned" in kinds else self._at(address)
        if allocation is None or allocation.kind not in kinds or allocation.address != address:
            raise Fault("INVALID_VALUE", f"{address:#x} is not the start of {'/'.join(kinds)} memory")
        if allocation in self._freed:
            raise Fault("INVALID_VALUE", f"{allocation} was freed before")
        self.account[allocation.kind] -= _rounded(allocation.size, allocation.kind)
        self._freed.add(allocation)
        if allocation.kind == "pinned":
            del self._pinned[address]
        else:
            allocation.data = allocation.data[:0].copy()
        return allocation

    def spoil(self, access, queued):
        """Work that will write here was launched. Page-locked memory reads as NaN from now on, unless queued work has
        yet to use it."""
        allocation, data = access.allocation, access.allocation.data[access.start : access.end]
        if access.written and allocation.shadow is not None:
            others = [other for work in queued for other in work.accesses if other.allocation is allocation]
            if not any(other.start < access.end and access.start < other.end for other in others):
                data[:] = 0xFF
            allocation.shadow[access.start : access.end] = data

    def is_alive(self, allocation):
        return allocation not in self._freed

    def alive(self):
        """What was not freed."""
        device = [a for a in self._all if a.kind != "pinned" and self.is_alive(a)]
        return [*device, *self._pinned.values()]

    def device(self, address, size):
        """(allocation, offset) of device memory that holds all these bytes, or Fault INVALID_VALUE."""
        allocation = self._at(address)
        if allocation is None:
            raise Fault("INVALID_VALUE", f"{address:#x} is no device address")
        if allocation in self._freed:
            raise Fault("INVALID_VALUE", f"{address:#x} is used after it was freed: {allocation}")
        offset = address - (allocation.device_address or allocation.address)
        if offset + size > allocation.size:
            raise Fault("INVALID_VALUE", f"{size} bytes from offset {offset} exceed {allocation}")
        return allocation, offset

    def pinned(self, address, size):
        """(allocation, offset) of the pinned memory around these bytes; None where they are pageable."""
        for allocation in self._pinned.values():
            offset = address - allocation.address
            if 0 <= offset < allocation.size or (offset == 0 and size == 0):
                if offset + size > allocation.size:
                    raise Fault("INVALID_VALUE", f"{size} bytes from offset {offset} exceed {allocation}")
                return allocation, offset
        return None

    def _at(self, address):
        """The device allocation that the address lies in or just behind."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address > self._starts[index] + self._all[index].size:
            return None
        return self._all[index]


def _rounded(size, kind):
    """What an allocation takes of the memory."""
    grain = PAGE if kind == "pinned" else GRAIN
    return -(-size // grain) * grain
