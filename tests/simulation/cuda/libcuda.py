"""`libcuda.so.1` on the simulated device, for programs that reach it by ctypes.

The functions are C functions: each call goes through the real foreign function interface and arrives as the header's
prototype has it (libcuda_symbols.py), so that an address which ctypes cuts to 32 bits, or an argument too few, arrives
as it would in the real library. Beyond that, what a wrong declaration would leave undefined is written into
`device.errors`: no `argtypes`, other sizes or another number than in the header, a result that is not an int, and
symbols that CUDA 2 had for 32-bit addresses.
"""

import ctypes
from itertools import count
from typing import Any

from ..device import codes
from ..device.memory import Fault
from . import cuda_python_types as t
from .cuda_python import Driver
from .libcuda_symbols import OUT, SYMBOLS, TYPES, ctype, is_old

VERSIONS = {"10.2": 10020, "11.4": 11040, "12.6": 12060, "13.0": 13000}
_handles = count(0x5500_0000_0010, 0x1000)  # what dlopen would give; never the same twice


class Libcuda:
    """What `ctypes.CDLL("libcuda.so.1")` gives. number: the driver's CUDA, as 10020."""

    def __init__(self, device, number):
        self._device, self._number = device, number
        self._api = _Api(device, number)
        self._handle, self._name = next(_handles), "libcuda.so.1"

    def __getattr__(self, symbol):
        known = SYMBOLS.get(symbol)
        if known is None or known.since > self._number:
            raise AttributeError(f"{self._name}: undefined symbol: {symbol}")
        function = _Function.made(self._device, self._api, symbol)
        setattr(self, symbol, function)
        return function


class _Api(Driver):
    """The driver API with C's arguments, where they are not those of cuda-python less the results."""

    def __init__(self, device, number):
        super().__init__(device, number)
        self._texts = {}

    def text(self, value):
        """The address of a text that stays where it is."""
        kept = self._texts.setdefault(value, ctypes.create_string_buffer(value))
        return ctypes.addressof(kept)

    def cuDeviceGetName(self, name, length, dev):
        text = super().cuDeviceGetName(length, dev).split(b"\0")[0] + b"\0"
        ctypes.memmove(name, text[:length], min(length, len(text)))

    def cuGraphInstantiate(self, hGraph, logBuffer, bufferSize):
        if bufferSize and not logBuffer:
            raise Fault("INVALID_VALUE", "a log buffer of no memory")
        return super().cuGraphInstantiate(hGraph, 0), 0

    def cuGraphInstantiateWithFlags(self, hGraph, flags):
        return super().cuGraphInstantiate(hGraph, flags)


class _Function(ctypes._CFuncPtr):  # type: ignore[name-defined]
    """A symbol, as a program gets it from ctypes: it declares `argtypes` and calls."""

    _flags_ = ctypes._FUNCFLAG_CDECL  # type: ignore[attr-defined]
    _restype_ = ctypes.c_int
    _symbol: str
    _on: Any
    _caught: list

    @classmethod
    def made(cls, device, api, symbol):
        arguments = SYMBOLS[symbol].arguments
        caught: list[BaseException] = []

        def callback(*given):
            try:
                with device.lock:
                    return _status(api, symbol, given)
            except BaseException as error:  # ctypes would print it and go on
                caught.append(error)
                return -1

        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *(ctype(kind) for kind, _ in arguments))
        kept = prototype(callback)
        made = cls(ctypes.cast(kept, ctypes.c_void_p).value)
        made._kept, made._symbol, made._on, made._caught = kept, symbol, device, caught
        return made

    def __call__(self, *given):
        self._check(given)
        self._caught.clear()
        status = super().__call__(*given)
        if self._caught:
            raise self._caught.pop()
        return status

    def _check(self, given):
        error, arguments = self._on.error, SYMBOLS[self._symbol].arguments
        if is_old(self._symbol):
            error(f"{self._symbol} takes 32-bit addresses: cuda.h calls {self._symbol}_v2")
        if self.argtypes is None:
            error(f"{self._symbol} was called without argtypes: ctypes passes an int's lower 32 bits")
            return
        if len(given) != len(arguments) or len(self.argtypes) != len(arguments):
            error(f"{self._symbol} takes {len(arguments)} arguments: {len(self.argtypes)} declared, {len(given)} given")
        for kind, declared in zip(arguments, self.argtypes, strict=False):
            if not _fits(kind, declared):
                error(f"{self._symbol}: {' '.join(kind)} was declared as {declared.__name__}")
        if self.restype is not ctypes.c_int:
            error(f"{self._symbol} returns an int")


def _fits(argument, declared):
    """Does a program's declaration pass this argument? A pointer that is written through must point to that type."""
    kind, name = argument
    target = getattr(declared, "_type_", None)
    if kind == OUT:
        wanted = ctypes.c_void_p if name == "pointer" else TYPES[name]
        pointers = (ctypes.c_void_p, ctypes.c_char_p)
        return isinstance(target, type) and (target is wanted or (wanted in pointers and target in pointers))
    if kind == "pointer":
        return declared in (ctypes.c_void_p, ctypes.c_char_p)
    return not isinstance(target, type) and ctypes.sizeof(declared) == ctypes.sizeof(TYPES[kind])


def _status(api, symbol, given):
    """Call it: the arguments that are written through leave, the rest goes in, the results are written."""
    pairs = list(zip(SYMBOLS[symbol].arguments, given, strict=True))
    outs = [(ctype(name), value) for (kind, name), value in pairs if kind == OUT]
    try:
        if any(not value for _, value in outs):
            raise Fault("INVALID_VALUE", "a null pointer for a result")
        result = getattr(api, SYMBOLS[symbol].call)(*[_enum(kind, value) for (kind, _), value in pairs if kind != OUT])
    except Fault as fault:
        return codes.number(fault.code)
    results = result if isinstance(result, tuple) else (result,)
    for (kind, address), value in zip(outs, results, strict=False):
        kind.from_address(address).value = int(api.text(value) if isinstance(value, bytes) else value)
    return 0


def _enum(kind, value):
    if kind in ("CUresult", "CUdevice_attribute", "CUstreamCaptureMode"):
        try:
            return getattr(t, kind)(value)
        except ValueError:
            raise Fault("INVALID_VALUE", f"{value} is no {kind}") from None
    return 0 if value is None else value


def loader(library, names, real):
    """What stands for `ctypes.CDLL`: it gives the library for these names, no other libcuda, and all else as before."""

    def load(name=None, *args, **kwargs):
        file = str(name).rpartition("/")[2]
        if not file.startswith("libcuda.so"):
            return real(name, *args, **kwargs)
        if library is None or name not in names:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return library

    return load
