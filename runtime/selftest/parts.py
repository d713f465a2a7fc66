"""A layout as the parts that can be tested alone: each engine, and what the host runs right behind it."""

from typing import List, NamedTuple, Sequence, Tuple

from ..bundle.plan import DOMAIN
from ..schedule.layout import Layout, Subgraph


class Part(NamedTuple):
    """Subgraphs that run one behind the other. inputs: the plan's values that they read and do not write, `image` may
    be among them; outputs: those they write; instead: it is what runs where a gate does not open."""

    name: str
    subgraphs: Tuple[Subgraph, ...]
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    instead: bool = False

    def key(self, value: str) -> str:
        """What an output of the part alone is called among golden values."""
        return value + "/instead" if self.instead else value


def parts_of(layout: Layout) -> List[Part]:
    """In the order in which they run; where a gate decides, first what runs if it opens."""
    groups: List[Tuple[List[Subgraph], bool]] = []
    for call in layout.calls:
        if call.subgraph.host and groups:
            groups[-1][0].append(call.subgraph)
            continue
        groups.append(([call.subgraph], False))
        if call.skip is not None:
            groups.append(([call.skip], True))
    return [_part(number + 1, group, instead) for number, (group, instead) in enumerate(groups)]


def _part(number: int, subgraphs: Sequence[Subgraph], instead: bool) -> Part:
    written = [name for subgraph in subgraphs for name in subgraph.outputs]
    read = [name for subgraph in subgraphs for name in subgraph.inputs if not name.startswith(DOMAIN)]
    steps = subgraphs[0].steps
    first, last = steps[0].segment, steps[-1].segment
    return Part(
        name="part %d (%s)" % (number, first if len(steps) == 1 else "%s to %s" % (first, last)),
        subgraphs=tuple(subgraphs),
        inputs=tuple(dict.fromkeys(name for name in read if name not in written)),
        outputs=tuple(written),
        instead=instead,
    )
