"""Simulated memory: device addresses are integers that mean nothing to the host, pinned host memory is real.

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


class Fault(Exception):
    """A CUDA call fails with `code`, the driver API's name without CUDA_ERROR_."""

    def __init__(self, code, detail=""):
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Allocation:
    """kind: "device", "pinned", or "private" (TensorRT's own: weights and scratch memory)."""

    def __init__(self, address, data, kind, label, context):
        self.address, self.data, self.kind, self.label, self.context = address, data, kind, label, context
        self.size = len(data)
        self.shadow = None  # of pinned memory: what the device wrote last
        self.touched = {}  # (start, end, stream, written) -> number of the stream's work

    def __repr__(self):
        return f"{self.size} bytes of {self.kind} memory at {self.address:#x} ({self.label})"


class Store:
    """All allocations, past and present."""

    def __init__(self, limit):
        self.limit = limit
        self.used = 0
        self.made = 0
        self.fail_at = None  # the number of the allocation that fails for want of memory, counted from 0
        self._next = FIRST
        self._starts = []  # of device memory, ascending because addresses only grow
        self._all = []
        self._freed = set()
        self._pinned = {}

    def take(self, size, kind, label="", context=None):
        """A new allocation; Fault OUT_OF_MEMORY beyond the limit."""
        number, self.made = self.made, self.made + 1
        grains = -(-size // GRAIN) * GRAIN
        if number == self.fail_at or (kind != "pinned" and self.used + grains > self.limit):
            raise Fault("OUT_OF_MEMORY", f"{size} bytes asked for, {self.limit - self.used} are free")
        if kind == "pinned":
            data = np.full(size, 0xFF, np.uint8)
            allocation = Allocation(data.ctypes.data, data, kind, label, context)
            allocation.shadow = data.copy()
            self._pinned[allocation.address] = allocation
            return allocation
        allocation = Allocation(self._next, np.full(size, 0xFF, np.uint8), kind, label, context)
        self._next = -(-(self._next + size + GUARD) // GRAIN) * GRAIN
        self._starts.append(allocation.address)
        self._all.append(allocation)
        self.used += grains
        return allocation

    def give_back(self, address, kinds=("device",)):
        """Free what starts at the address; Fault INVALID_VALUE for anything else, double frees among it."""
        allocation = self._pinned.get(address) if "pinned" in kinds else self._at(address)
        if allocation is None or allocation.kind not in kinds or allocation.address != address:
            raise Fault("INVALID_VALUE", f"{address:#x} is not the start of {'/'.join(kinds)} memory")
        if allocation in self._freed:
            raise Fault("INVALID_VALUE", f"{allocation} was freed before")
        if allocation.kind == "pinned":
            del self._pinned[address]
        else:
            self.used -= -(-allocation.size // GRAIN) * GRAIN
            self._freed.add(allocation)
            allocation.data = allocation.data[:0].copy()
        return allocation

    def is_alive(self, allocation):
        if allocation.kind == "pinned":
            return self._pinned.get(allocation.address) is allocation
        return allocation not in self._freed

    def alive(self):
        """What was not freed."""
        return [a for a in [*self._all, *self._pinned.values()] if self.is_alive(a)]

    def device(self, address, size):
        """(allocation, offset) of device memory that holds all these bytes, or Fault INVALID_VALUE."""
        allocation = self._at(address)
        if allocation is None:
            raise Fault("INVALID_VALUE", f"{address:#x} is no device address")
        if allocation in self._freed:
            raise Fault("INVALID_VALUE", f"{address:#x} is used after it was freed: {allocation}")
        offset = address - allocation.address
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
