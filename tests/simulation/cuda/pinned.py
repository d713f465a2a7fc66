"""Host memory of copies: the bytes behind a buffer, and page-locked arrays that notice when they are read too early."""

from typing import Any

import numpy as np


def bytes_of(buffer, writable):
    """The memory of a contiguous buffer as uint8, shared; ValueError for another, as PyObject_GetBuffer has it."""
    if isinstance(buffer, np.ndarray):
        array = buffer.view(np.ndarray)
        if not (array.flags.c_contiguous or array.flags.f_contiguous):
            raise ValueError("ndarray is not contiguous")
        array = (array if array.flags.c_contiguous else array.T).reshape(-1).view(np.uint8)
    else:
        array = np.frombuffer(buffer, np.uint8)
    if writable and not array.flags.writeable:
        raise ValueError("buffer source array is read-only")
    return array


class PinnedArray(np.ndarray):
    """Page-locked memory as pycuda hands it out. Any look at its numbers while a copy into them is still queued is
    recorded; taking a view of it is not a look."""

    def __array_finalize__(self, source):
        self._watch = getattr(source, "_watch", None)  # (device, allocation, holder)

    @property
    def base(self):
        """The HostAllocation, as of the array that pycuda makes."""
        watch: Any = self._watch
        return watch[2]

    def _look(self):
        if self._watch is not None and self.size:
            device, allocation, _ = self._watch
            start = self.__array_interface__["data"][0] - allocation.address
            if 0 <= start < allocation.size:
                device.host_reads(allocation, start, start + (self.nbytes if self.flags.contiguous else 1))
        return self.view(np.ndarray)

    def __getitem__(self, key):
        result = super().__getitem__(key)
        return result if isinstance(result, np.ndarray) else self._look()[key]

    def __setitem__(self, key, value):
        self._look()[key] = _plain(value)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if out is not None:
            kwargs["out"] = tuple(_plain(o) for o in out)
        return getattr(ufunc, method)(*[_plain(i) for i in inputs], **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        return func(*_plain(list(args)), **{key: _plain(value) for key, value in kwargs.items()})


def pinned_array(holder, shape, dtype, device, allocation):
    """An array on the allocation's memory that keeps `holder` alive, as its base, as long as any view of it lives."""
    holder.__array_interface__ = {
        "version": 3,
        "data": (allocation.address, False),
        "shape": shape,
        "typestr": np.dtype(dtype).str,
    }
    array = np.asarray(holder).view(PinnedArray)
    array._watch = (device, allocation, holder)
    return array


def _plain(value):
    """Looked at, and an ordinary array from here on."""
    if isinstance(value, PinnedArray):
        return value._look()
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value


def _looking(name):
    def method(self, *args, **kwargs):
        return getattr(self._look(), name)(*args, **kwargs)

    return method


for _name in ("__bool__", "__float__", "__int__", "__iter__", "astype", "copy", "item", "take", "tobytes", "tolist"):
    setattr(PinnedArray, _name, _looking(_name))
