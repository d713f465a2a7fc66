"""The weights of domains in the GPU's memory: one block for each domain, in the types that engines take."""

import weakref
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Set, Tuple

import numpy as np

from ..bundle.plan import DOMAIN
from ..cuda.interface import Cuda, host
from ..records import Array, Domain
from .tensor_spec import TensorSpec, aligned

Key = Tuple[str, str]  # the plan's name of a value, and its type


class Weights:
    """A domain in device memory. addresses: where each value lies, by name and type; tensors: all of its tensors, on
    the host; token: an object that stands for the domain, and keeps nothing alive."""

    def __init__(self, addresses: Dict[Key, int], tensors: Mapping[str, Array]) -> None:
        self.addresses = addresses
        self.tensors = tensors
        self.token = object()


class PackedWeights(NamedTuple):
    """A domain's tensors as one block of bytes, uint8 (n,), and where in it each begins."""

    data: Array
    offsets: Dict[Key, int]


def pack_weights(inputs: Iterable[TensorSpec], weights: Mapping[str, Array]) -> PackedWeights:
    """The tensors of a domain that engines with these inputs read. weights: float32, by name."""
    tensors: Dict[Key, Any] = {}
    offsets: Dict[Key, int] = {}
    end = 0
    for spec in inputs:
        key = (spec.value, spec.dtype)
        if not spec.value.startswith(DOMAIN) or key in tensors:
            continue
        tensors[key] = weights[spec.value[len(DOMAIN) :]]
        offsets[key] = end
        end += aligned(tensors[key].size * np.dtype(spec.dtype).itemsize)
    data = np.zeros(max(1, end), np.uint8)
    for key, tensor in tensors.items():
        flat = _saturated(tensor, np.dtype(key[1])).reshape(-1)
        data[offsets[key] : offsets[key] + flat.nbytes] = flat.view(np.uint8)
    return PackedWeights(data, offsets)


class WeightMemory:
    """The device memory of all domains. The context must be pushed for every call, and no two run at once.

    The memory of a domain is freed some time after its `Weights` is gone: by the next call of `sweep`. Nothing is freed
    where the garbage collector happens to be.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.stream()
        self._live: Set[int] = set()
        self._dead: List[int] = []  # those whose Weights is gone

    def upload(self, packed: PackedWeights, domain: Domain) -> Weights:
        """Copy the domain's tensors that engines read to the device."""
        self.sweep()
        memory = self._cuda.alloc(packed.data.nbytes, "domain %s" % domain.name)
        self._live.add(memory)
        try:
            self._cuda.to_device(memory, host(packed.data), self._stream)
            self._cuda.wait(self._stream)
        except BaseException:
            self._live.discard(memory)
            self._cuda.free(memory)
            raise
        addresses = {key: memory + offset for key, offset in packed.offsets.items()}
        weights = Weights(addresses, domain.weights)
        weakref.finalize(weights, self._dead.append, memory).atexit = False
        return weights

    def sweep(self) -> None:
        """Free the memory of domains that nobody holds any more."""
        while self._dead:
            memory = self._dead.pop()
            if memory in self._live:
                self._live.discard(memory)
                self._cuda.free(memory)

    def free_all(self) -> None:
        """Free the memory of every domain, held or not."""
        self._dead.extend(self._live)
        self.sweep()

    def close(self) -> None:
        """Free the stream; call `free_all` before."""
        self._cuda.destroy(self._stream)


def _saturated(tensor: Any, dtype: "np.dtype[np.generic]") -> Any:
    """float32 in another type; what float16 cannot hold becomes its greatest number, not infinity."""
    if dtype == np.float16:
        most = float(np.finfo(np.float16).max)
        tensor = np.clip(tensor, -most, most)
    return np.ascontiguousarray(tensor, dtype=dtype)
