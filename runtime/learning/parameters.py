"""All that one domain learns on a bundle's backbone, under the names that checkpoints have."""

from typing import Dict, List, Set, Tuple

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.plan import closable, domain_inputs
from ..errors import BundleError, CheckpointError
from ..records import Array
from ..training.config import AdaptorSpec
from .parts import Adaptor, Bypass, Exit, Head, Part, Tensors

_ADAPTORS, _EXITS, _BYPASSES, _HEAD = "adaptors", "exits", "substitutes", "head."


class Parameters:
    """The parts of a domain that starts from nothing.

    may_close: whether blocks may be closed for it, so that it has bypasses. `closed`: the blocks that are.
    """

    def __init__(self, manifest: Manifest, classes: int, seed: int, may_close: bool = False) -> None:
        """Raises BundleError for a bundle whose domains this da3 cannot train."""
        spec, shapes = AdaptorSpec.from_json(manifest.adaptor), _shapes(manifest)
        self.may_close, self.closed = may_close, ()  # type: Tuple[bool, Tuple[int, ...]]
        self.blocks, self.closable = len(manifest.blocks), closable(manifest.plan)
        self.adaptors = {i: Adaptor("adaptors.%d." % i, s, seed, i) for i, s in shapes[_ADAPTORS].items()}
        self.exits = {i: Exit("exits.%d." % i, s, self.adaptors[i + 1], seed, i) for i, s in shapes[_EXITS].items()}
        self.exit_heads = {
            i: Head("exits.%d.head." % i, 2 * exit.width, classes, "exits.%d." % i) for i, exit in self.exits.items()
        }
        found = shapes[_BYPASSES] if may_close else {}
        self.bypasses = {i: Bypass("substitutes.%d." % i, s, self.adaptors[i]) for i, s in found.items()}
        self.head = Head(_HEAD, manifest.backbone["feature_size"], classes)
        if not self.adaptors or tuple(self.exits) != spec.exits:
            raise BundleError("this bundle has no adaptors to train, or other exits than it says: export it again")

    @property
    def parts(self) -> List[Part]:
        """In the order in which an optimiser numbers what they train."""
        parts: List[Part] = list(self.adaptors.values())
        for i, exit in self.exits.items():
            parts += [exit, self.exit_heads[i]]
        parts += self.bypasses.values()
        return parts + [self.head]

    def trained(self) -> Dict[str, Array]:
        """What the optimiser updates, by full name, in the order of its places. The arrays are those in use."""
        return {part.place + name: array for part in self.parts for name, array in part.parameters.items()}

    def count(self) -> int:
        """Numbers to train."""
        return sum(array.size for array in self.trained().values())

    def open_blocks(self) -> List[int]:
        """Blocks that may be closed and are not."""
        return [i for i in sorted(self.closable) if i not in self.closed]

    def close(self, block: int) -> None:
        """Never run the block of this number again."""
        self.closed = tuple(sorted(self.closed + (block,)))

    def fold(self, every: bool = False) -> Tensors:
        """The tensors of the domain as a bundle has them: of bypasses, those of closed blocks, or `every` one."""
        parts = self.parts if every else self._used()
        return {part.folded_place + name: array for part in parts for name, array in part.fold().items()}

    def unfold(self, gradients: Tensors) -> Tensors:
        """Gradients for the folded tensors -> those for what is trained. Bypasses of open blocks have none."""
        found: Tensors = {}
        for part in self._used():
            start = part.folded_place
            own = {name[len(start) :]: g for name, g in gradients.items() if name.startswith(start)}
            found.update((part.place + name, gradient) for name, gradient in part.unfold(own).items())
        return found

    def _used(self) -> List[Part]:
        unused = [bypass for block, bypass in self.bypasses.items() if block not in self.closed]
        return [part for part in self.parts if part not in unused]

    # -- as checkpoints have it

    def state(self) -> Dict[str, Array]:
        """Every number, by full name."""
        found: Dict[str, Array] = {}
        for part in self.parts:
            for held in (part.parameters, part.statistics):
                found.update((part.place + name, array) for name, array in held.items())
        if self.may_close:
            found["closed"] = np.array([i in self.closed for i in range(self.blocks)])
        return found

    def load(self, state: Dict[str, Array], path: str) -> None:
        """Take up a `state`, of the file at `path`. Raises CheckpointError where names or shapes differ."""
        own = self.state()
        wrong = sorted(n for n in set(own) | set(state) if n not in own or n not in state)
        wrong += sorted(n for n in own if n not in wrong and own[n].shape != state[n].shape)
        if wrong:
            raise CheckpointError(
                "%s does not fit this bundle (%s differs): learn with the bundle it was begun on, or with --overwrite"
                % (path, wrong[0])
            )
        for part in self.parts:
            for held in (part.parameters, part.statistics):
                for name in held:
                    held[name] = np.array(state[part.place + name], dtype=np.float32)
        if self.may_close:
            self.closed = tuple(int(i) for i in np.flatnonzero(state["closed"]))


def _shapes(manifest: Manifest) -> Dict[str, Dict[int, Dict[str, Tuple[int, ...]]]]:
    """Kind of part -> block -> short name -> shape; free dimensions, the classes, are left out of shapes."""
    found: Dict[str, Dict[int, Dict[str, Tuple[int, ...]]]] = {_ADAPTORS: {}, _EXITS: {}, _BYPASSES: {}}
    strangers: Set[str] = set()
    for name, shapes in domain_inputs(manifest.plan, manifest.segments).items():
        words = name.split(".")
        if len(words) == 3 and words[0] in found and words[1].isdigit():
            fixed = tuple(n for n in shapes[0] if not isinstance(n, str))
            found[words[0]].setdefault(int(words[1]), {})[words[2]] = fixed
        elif not name.startswith(_HEAD):
            strangers.add(name)
    if strangers:
        raise BundleError("domains of this bundle have a tensor %s, which cannot be trained here" % min(strangers))
    return {kind: {i: of[i] for i in sorted(of)} for kind, of in found.items()}
