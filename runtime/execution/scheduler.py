"""Which lane a run takes: what its domain and the caller close, and whether pictures may leave, decide on the layout.

A *lane* is a layout opened on a backend. Domains that close the same blocks share one, and so do those where nobody
leaves. A lane is opened when a domain that needs it is bound, or an override first asks for it. A device that looks
ahead has no lanes for those that nobody leaves: where nothing is decided, it is given its parts without a wait between
them, and engines for the whole would be the backbone once more.
"""

import itertools
import threading
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..backends.interface import Backend
from ..bundle.bundle import Bundle
from ..bundle.familiar import seen_values
from ..bundle.plan import closable, exit_steps
from ..errors import DomainError
from ..records import ENERGY, Array, Domain, ExitRule, Familiar
from ..schedule.decisions import Overrides, check_overrides, closed_blocks, leaving, threshold
from ..schedule.layout import Layout, join_plan
from ..schedule.look_ahead import starts_ahead
from .lane import Bound, Lane, LaneClosed, Outcome, Seen
from .program import Exits

# Each holds the backbone in memory, so the one that was used longest ago is closed when there are more.
_MAX_LANES = 16

_keys = itertools.count()

_STAYS = leaving(ExitRule(None))
_GOES = leaving(ExitRule(0.0))


class Choice(NamedTuple):
    """What the caller decides in the place of the domain. overrides: blocks that run or are skipped; leave_at: the exit
    where every picture leaves; all_blocks: every block runs and nobody leaves."""

    overrides: Overrides = {}
    leave_at: Optional[int] = None
    all_blocks: bool = False


PLAIN = Choice()


class _Key(NamedTuple):
    """What a run asks of a lane: the blocks that are closed, and whether pictures may leave. lasting: it will be asked
    for again; lanes do not differ by it."""

    closed: FrozenSet[int]
    leaves: bool
    lasting: bool = True


class Scheduler:
    """One per opened bundle; any number of threads may run it."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Opens the lane at once where there can be only one, so that the first image is as fast as the next."""
        self._bundle = bundle
        self._backend = backend
        self._untaken: Optional[Backend] = backend  # until a lane has it
        plan = bundle.manifest.plan
        self._blocks = len(bundle.manifest.blocks)
        self._closable = closable(plan)
        self._gated = {step.block for step in plan if step.gate is not None and step.block is not None}
        self._exits = [step.outputs[0] for step in exit_steps(plan)]
        early, last = seen_values(bundle.manifest)
        self._features = tuple(dict.fromkeys(early + (last,)))
        self._in_parts = backend.looks_ahead and bool(self._exits)
        self._nobody = self._forced(None)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._lanes: Dict[Tuple[FrozenSet[int], bool], Lane] = {}
        self._uses = itertools.count(1)
        self._closed = False
        self._alive: Set[int] = set()
        if not self._exits and self._closable == self._gated:
            self._lane(_Key(frozenset(), False))

    def bind(self, domain: Domain) -> Bound:
        """A domain `fitted` to this bundle, made ready to run: its lane is opened."""
        bound = self._bound(domain, next(_keys))
        with self._lock:
            self._alive.add(bound.key)
        self._lane(self._key(bound, PLAIN)).weights(bound)
        return bound

    def rebind(self, bound: Bound, domain: Domain) -> Bound:
        """The same domain with other thresholds, temperatures or closed blocks, and the same tensors and key."""
        changed = self._bound(domain, bound.key)
        self._lane(self._key(changed, PLAIN))
        return changed

    def forget(self, bound: Bound) -> None:
        """Let go of what lanes hold for a domain. Runs under way with it end normally."""
        with self._lock:
            self._alive.discard(bound.key)
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.forget()

    def run(self, bound: Bound, images: Array, choice: Choice = PLAIN) -> Outcome:
        """float32 (B, 3, size, size), C-contiguous -> Outcome, without values of the plan."""
        overrides = self._overrides(choice)
        exits = self._decided(bound, choice)
        return self._run(bound, images, self._key(bound, choice), (), overrides, exits, bound.seen)

    def features(self, bound: Bound, images: Array) -> Outcome:
        """`run`, and among `seen` what the classifier of every exit reads, and the last one. Nobody leaves."""
        return self._run(bound, images, self._key(bound, PLAIN), (), (), self._nobody, (self._features,))

    def trace(self, bound: Bound, images: Array, watched: Sequence[str], choice: Choice = PLAIN) -> Outcome:
        """`run`, and the values of the plan named in `watched`. Nobody leaves, so there is a value for every image.

        A value inside a subgraph cannot be read from it. For such a one, subgraphs that end where it is written are
        opened for this call. The exits' logits need none.
        """
        overrides = self._overrides(choice)
        parts = self._in_parts or not set(self._exits).isdisjoint(watched)
        key = self._key(bound, choice)._replace(leaves=parts)
        layout = self._layout(key)
        if set(watched) <= set(layout.readable + layout.gates):
            return self._run(bound, images, key._replace(lasting=False), watched, overrides, self._nobody)
        layout = self._layout(key._replace(leaves=self._in_parts, lasting=False), watched)
        lane = Lane(self._backend.another(), layout, self._bundle, key.closed, self._alive)
        try:
            return lane.run(bound, images, watched, overrides, self._nobody)
        finally:
            lane.close()

    def close(self) -> None:
        """Free everything once the runs under way have ended; may be called twice."""
        with self._lock:
            self._closed = True
            lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.close()

    # -- what a run takes

    def _bound(self, domain: Domain, key: int) -> Bound:
        rules = tuple(leaving(rule) for rule in domain.exits)
        exits = Exits(rules, starts_ahead(self._bundle.manifest, domain)) if rules else self._nobody
        return Bound(
            domain=domain,
            closed=frozenset(domain.closed),
            theta=threshold(domain.theta),
            exits=exits,
            leaves=any(rule.threshold is not None for rule in domain.exits),
            key=key,
            seen=_seen(domain.familiar),
        )

    def _key(self, bound: Bound, choice: Choice) -> _Key:
        """The lane for a run."""
        if choice.all_blocks:
            return _Key(frozenset(), self._in_parts)
        leaves = self._in_parts or bound.leaves or choice.leave_at is not None
        if not choice.overrides:
            return _Key(bound.closed, leaves)
        return _Key(closed_blocks(bound.closed, choice.overrides, self._gated), leaves, lasting=False)

    def _overrides(self, choice: Choice) -> Tuple[Tuple[int, bool], ...]:
        """Those that gates are asked about. Raises DomainError for blocks that cannot be skipped."""
        if choice.all_blocks:
            return tuple((block, True) for block in sorted(self._gated))
        check_overrides(choice.overrides, self._blocks, self._closable)
        return tuple(sorted((block, runs) for block, runs in choice.overrides.items() if block in self._gated))

    def _decided(self, bound: Bound, choice: Choice) -> Exits:
        """What is decided at each exit of the plan. Raises DomainError for an exit that the domain does not have."""
        if choice.leave_at is None:
            return self._nobody if choice.all_blocks else bound.exits
        count = len(bound.domain.exits)
        if choice.all_blocks or not 0 <= choice.leave_at < count:
            raise DomainError(
                "no picture of domain %s can leave at exit %d%s"
                % (
                    bound.domain.name,
                    choice.leave_at,
                    ": all blocks are to run" if choice.all_blocks else "; it has %d exits, counted from 0" % count,
                )
            )
        return self._forced(choice.leave_at)

    def _forced(self, exit: Optional[int]) -> Exits:
        """All leave at this exit, None: nobody leaves."""
        count = len(self._exits)
        return Exits(tuple(_GOES if number == exit else _STAYS for number in range(count)), (False,) * count)

    # -- lanes

    def _run(
        self,
        bound: Bound,
        images: Array,
        key: _Key,
        watched: Sequence[str],
        overrides: Tuple[Tuple[int, bool], ...],
        exits: Exits,
        seen: Seen = (),
    ) -> Outcome:
        while True:
            try:
                return self._lane(key).run(bound, images, watched, overrides, exits, seen)
            except LaneClosed:
                if self._closed:
                    raise

    def _lane(self, key: _Key) -> Lane:
        lane = self._lanes.get(key[:2])
        if lane is None:
            with self._opening:
                if self._closed:
                    raise LaneClosed()
                lane = self._lanes.get(key[:2]) or self._open(key)
        lane.used = next(self._uses)
        return lane

    def _open(self, key: _Key) -> Lane:
        """A new lane; the one that was used longest ago is closed where there are too many."""
        backend, self._untaken = self._untaken or self._backend.another(), None
        lane = Lane(backend, self._layout(key), self._bundle, key.closed, self._alive)
        surplus: List[Lane] = []
        with self._lock:
            if self._closed:
                surplus.append(lane)
            else:
                if len(self._lanes) >= _MAX_LANES:
                    surplus.append(self._lanes.pop(min(self._lanes, key=lambda name: self._lanes[name].used)))
                self._lanes[key[:2]] = lane
        for one in surplus:
            one.close()
        if lane in surplus:
            raise LaneClosed()
        return lane

    def _layout(self, key: _Key, readable: Sequence[str] = ()) -> Layout:
        """readable: values that can be read. What classifiers read always can: a device that looks ahead hands it on to
        the host anyway."""
        ahead = self._backend.looks_ahead
        if not ahead:
            readable = tuple(dict.fromkeys(tuple(readable) + self._features))
        layout = join_plan(self._bundle.manifest, ahead, readable, key.closed, key.leaves)
        return layout._replace(lasting=key.lasting)


def _seen(familiar: Optional[Familiar]) -> Seen:
    if familiar is None:
        return ()
    return tuple(tuple(name for name in place.terms if name != ENERGY) for place in familiar.places)
