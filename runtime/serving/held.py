"""The domains that are held in memory, by number: read when they are first asked for, the longest unused given up."""

import os
from collections import OrderedDict

from ..bundle.domain import read_pack
from ..engine import Runtime
from ..errors import DomainError
from .layout import pack_name


class Held:
    """Domains of the store in a Runtime. A number always means the same pack, so what is held never grows old."""

    def __init__(self, runtime: Runtime, packs: str, most: int) -> None:
        """packs: the folder of the packs; most: how many domains are held at a time."""
        self._runtime, self._packs, self._most = runtime, packs, most
        self._names: "OrderedDict[int, str]" = OrderedDict()  # the domains' own names, the longest unused first

    def take(self, number: int) -> str:
        """Hold the domain with this number; returns the name it is called by outside. Raises Da3Error."""
        name = self._names.get(number)
        if name is not None:
            self._names.move_to_end(number)
            return name
        path = os.path.join(self._packs, pack_name(number))
        if not os.path.isfile(path):
            raise DomainError("the domain was removed or replaced in the repository: let Triton load its model again")
        domain = read_pack(path)
        # Two packs of one domain may be held, the one before and the one that replaces it.
        self._runtime.load(domain._replace(name=held_name(number)))
        while len(self._names) >= self._most:
            self._runtime.unload(held_name(self._names.popitem(last=False)[0]))
        self._names[number] = domain.name
        return domain.name


def held_name(number: int) -> str:
    """What the domain with this number is called in the Runtime."""
    return "number-%d" % number
