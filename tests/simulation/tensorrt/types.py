"""The small types of the `tensorrt` double: loggers, dimensions, host memory, parser errors.

After python/src/infer/pyFoundationalTypes.cpp and pyCore.cpp of NVIDIA/TensorRT.
"""

import json
import warnings
from operator import index
from typing import Any


class Crash(BaseException):
    """Real TensorRT would have taken the process down here, so nothing may catch it as if it were an error."""


class Dims:
    """Dimensions: a sequence that can be compared with lists and tuples, and with nothing else, its like included."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape=()):
        self._d = [index(n) for n in shape]
        if len(self._d) > 8:
            raise ValueError(f"Input length {len(self._d)}. Max expected length is 8")

    def __len__(self):
        return len(self._d)

    def __getitem__(self, index):
        return tuple(self._d[index]) if isinstance(index, slice) else self._d[index]

    def __eq__(self, other):
        if not isinstance(other, (list, tuple)):
            raise TypeError("__eq__(): incompatible function arguments: a list or a tuple is wanted")
        return list(other) == self._d

    def __repr__(self):
        return str(tuple(self._d))


def dims(value):
    """An argument that is converted to Dims: a sequence of integers."""
    if isinstance(value, Dims):
        return tuple(value._d)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise TypeError(f"incompatible function arguments: a shape is a sequence of integers, not {value!r}")
    return tuple(n.__index__() for n in value)


def pointer(value):
    """A size_t argument: pybind11 takes what has __index__ or __int__, but no float."""
    if isinstance(value, (float, str, bytes)) or not (hasattr(value, "__index__") or hasattr(value, "__int__")):
        raise TypeError(f"incompatible function arguments: an address or handle is an int, not {value!r}")
    number = int(value)
    if number < 0:
        raise TypeError("incompatible function arguments: negative")
    return number


class IHostMemory(bytes):
    """What TensorRT serialised: a buffer with nbytes, but no len(), items or methods of bytes."""

    @property
    def nbytes(self):
        return bytes.__len__(self)

    def _refuse(self, *args):
        raise TypeError("object of type 'tensorrt.tensorrt.IHostMemory' has only a buffer: use bytes(memory)")

    __len__ = __getitem__ = __iter__ = __add__ = __contains__ = _refuse
    __hash__ = object.__hash__

    def __bool__(self):
        return True

    def __eq__(self, other):
        return self is other

    def __getattribute__(self, name):
        if not name.startswith("__") and name not in ("nbytes", "_refuse"):
            raise AttributeError(f"'tensorrt.tensorrt.IHostMemory' object has no attribute {name!r}")
        return object.__getattribute__(self, name)


def buffer(value):
    """A py::buffer argument, as bytes."""
    try:
        return memoryview(value).cast("B").tobytes()
    except TypeError:
        raise TypeError(f"incompatible function arguments: a buffer is wanted, not {type(value).__name__}") from None


class ITimingCache:
    _home: Any
    _content: Any

    def __init__(self):
        raise TypeError("tensorrt.ITimingCache: No constructor defined!")

    @classmethod
    def _make(cls, home, data):
        """None for bytes that are no timing cache."""
        made = object.__new__(cls)
        made._home = {"release": home.api.release, "sm": home.device.sm}
        made._content = {**made._home, "entries": []}
        if data:
            try:
                made._content = json.loads(data.decode())
                assert isinstance(made._content["entries"], list)
            except (ValueError, KeyError, TypeError, AssertionError):
                return None
        return made

    def _fits(self):
        return {key: self._content.get(key) for key in self._home} == self._home

    def _add(self, entry):
        if entry not in self._content["entries"]:
            self._content["entries"].append(entry)

    def serialize(self):
        return IHostMemory(json.dumps(self._content).encode())


class ParserError:
    """Everything but str() is a method, as in the binding."""

    def __init__(self, refusal):
        self._refusal = refusal

    def desc(self):
        return self._refusal.text

    def __str__(self):
        return f"In node {self._refusal.node} (simulated): {self._refusal.code}: {self._refusal.text}"

    __repr__ = __str__


def make_loggers(severity):
    """ILogger, to be derived from, and Logger. The severities are attributes of both, as export_values() has it."""

    class ILogger:
        Severity = severity

        def __init__(self):
            self._built = True

        def log(self, severity, msg):
            raise NotImplementedError('Tried to call pure virtual function "ILogger::log"')

    class Logger(ILogger):
        def __init__(self, min_severity=severity.WARNING):
            super().__init__()
            self.min_severity = min_severity

        def log(self, severity, msg):
            if int(severity) <= int(self.min_severity):
                print(f"[TRT] [{'FEWIV'[int(severity)]}] {msg}")

    for name, value in severity.__members__.items():
        setattr(ILogger, name, value)
    return ILogger, Logger


def deprecated(instead):
    """The bindings warn at every call of what has a successor (utils::deprecate)."""
    warnings.warn(f"Use {instead} instead.", DeprecationWarning, stacklevel=3)
