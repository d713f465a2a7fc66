"""One layout of a plan, opened on a backend: contexts and programs are held here, and runs take them.

A run takes a free context of its batch size, or has one made. Each context keeps a program for each domain: the
layout's calls, bound to the context's buffers and the domain's weights.
"""

import threading
from collections import OrderedDict
from typing import Any, Container, Dict, FrozenSet, List, NamedTuple, Sequence, Tuple

import numpy as np

from ..backends.interface import Backend, ExecutionContext
from ..bundle.bundle import Bundle
from ..errors import BackendError, ImageError
from ..records import Array, Domain
from ..schedule.flops import reached_blocks
from ..schedule.layout import Layout
from .program import Exits, NotFinite, Program, bind_program, run

_MAX_PROGRAMS = 256  # of one context; with more domains than that, programs are bound again when they come back
_MAX_IDLE_CONTEXTS = 8


Seen = Tuple[Tuple[str, ...], ...]


class Bound(NamedTuple):
    """A domain ready to run. closed: the blocks that it closes; theta: its threshold as gates are compared with it;
    exits: what is decided at those of the plan; leaves: whether a picture may leave at one of them; key: no other
    domain ever bound has it; seen: for each exit, and for the end, the values by which it is told there whether a
    picture is one of the domain's."""

    domain: Domain
    closed: FrozenSet[int]
    theta: float
    exits: Exits
    leaves: bool
    key: int
    seen: Seen = ()


class Outcome(NamedTuple):
    """What a run gives. logits: float32 (B, classes). blocks: bool (B, n_blocks), True where the block ran. left: int64
    (B,), the exit where each image left, or how many there are. values: the values of the plan that were asked for,
    (B, ...) each. seen: those that belong to where images left; of the others they hold anything."""

    logits: Array
    blocks: Array
    left: Array
    values: Dict[str, Array]
    seen: Dict[str, Array] = {}


class LaneClosed(BackendError):
    """Nothing runs here any more."""

    def __init__(self) -> None:
        super().__init__("this Runtime is closed; open the bundle again with Runtime(path)")


class _Pooled:
    """A context and its programs. generation: that of the lane when programs of forgotten domains last went."""

    def __init__(self, context: ExecutionContext, batch: int) -> None:
        self.context = context
        self.batch = batch
        self.programs: "OrderedDict[Any, Program]" = OrderedDict()
        self.generation = 0


class Lane:
    """See the module; any number of threads may run it. used: when it was used last, for whoever counts."""

    def __init__(
        self, backend: Backend, layout: Layout, bundle: Bundle, closed: Container[int], alive: Container[int]
    ) -> None:
        """Opens every subgraph. closed: the blocks that the layout leaves out. alive: the keys of the domains that are
        bound, kept up to date by the scheduler."""
        self.layout = layout
        self.used = 0
        self._backend = backend
        manifest = bundle.manifest
        runs = np.array([block not in closed for block in range(len(manifest.blocks))], dtype=bool)
        self._ran = reached_blocks(manifest.plan, len(runs)) & runs
        self._lock = threading.Lock()
        self._idle: List[_Pooled] = []  # least recently used first
        self._busy = 0
        self._closed = False
        self._weights: Dict[int, Any] = {}  # what the backend made of domains, by their keys
        self._alive = alive
        self._generation = 0  # counts domains that were forgotten
        backend.open(layout, bundle)

    def weights(self, bound: Bound) -> Any:
        """The domain's tensors, where the backend wants them."""
        found = self._weights.get(bound.key)
        return self._weights.setdefault(bound.key, self._backend.weights(bound.domain)) if found is None else found

    def forget(self) -> None:
        """Let go of what is held for domains that are bound no more. Runs under way with them end normally."""
        with self._lock:
            self._generation += 1
            self._drop_weights()
            for pooled in self._idle:
                self._sweep(pooled)

    def run(
        self,
        bound: Bound,
        images: Array,
        watched: Sequence[str],
        overrides: Tuple[Tuple[int, bool], ...],
        exits: Exits,
        seen: Seen = (),
    ) -> Outcome:
        """float32 (B, 3, size, size), C-contiguous -> Outcome, in pieces of the size that a context may take.

        watched: values that the layout lets be read. overrides: of blocks with gates, ascending. exits: for each
        exit of the layout. seen: see Bound. Raises LaneClosed before anything else is done, ImageError for images that
        hold NaN or infinity where that shows in the answer, BackendError where finite images are answered so.
        """
        most = self._backend.max_batch or len(images)
        pieces = [
            self._run(bound, images[i : i + most], watched, overrides, exits, seen) for i in range(0, len(images), most)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return Outcome(
            np.concatenate([piece.logits for piece in pieces]),
            np.concatenate([piece.blocks for piece in pieces]),
            np.concatenate([piece.left for piece in pieces]),
            {name: np.concatenate([piece.values[name] for piece in pieces]) for name in watched},
            _joined([(len(piece.left), piece.seen) for piece in pieces]),
        )

    def close(self) -> None:
        """Free everything once the runs under way have ended; may be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            last = self._busy == 0
        for pooled in idle:
            pooled.context.close()
        if last:
            self._backend.close()

    # -- a run

    def _run(
        self,
        bound: Bound,
        images: Array,
        watched: Sequence[str],
        overrides: Tuple[Tuple[int, bool], ...],
        exits: Exits,
        seen: Seen,
    ) -> Outcome:
        pooled = self._take(len(images))
        sound = False
        try:
            program = self._program(pooled, bound, overrides)
            context = pooled.context
            context.begin(images)
            try:
                answer = run(program, bound.theta, exits, pooled.batch)
                if not watched and not np.isfinite(answer.logits).all():  # who traces may be looking for the cause
                    raise NotFinite("the last logits")
                values = {name: context.read(name) for name in watched}
                looked = _looked_at(context, seen, answer.left) if seen else {}
            finally:
                context.end()
            sound = True
            return Outcome(answer.logits, answer.ran, answer.left, values, looked)
        except NotFinite as error:
            sound = True  # everything was run
            if not np.isfinite(images).all():
                raise ImageError("NaN or infinity in the images: look at what they are made of")
            precision = getattr(self._backend, "precision", None)
            reason = "float16 holds nothing beyond 65504, so if this runs in fp16 or int8, build or run it with "
            reason += "--precision fp32"
            if precision == "fp32":
                reason = "numbers grow beyond what float32 holds up to there: train or export the domain again"
            elif precision is not None:
                reason = "in %s: float16 holds nothing beyond 65504; use --precision fp32" % precision
            raise BackendError("domain %s, %s: %s" % (bound.domain.name, error, reason))
        finally:
            self._give_back(pooled, sound)

    def _take(self, batch: int) -> _Pooled:
        with self._lock:
            if self._closed:
                raise LaneClosed()
            self._busy += 1
            for number in reversed(range(len(self._idle))):
                if self._idle[number].batch == batch:
                    return self._idle.pop(number)
        try:
            return _Pooled(self._backend.context(batch), batch)
        except BaseException:
            self._leave()
            raise

    def _give_back(self, pooled: _Pooled, sound: bool) -> None:
        """A context in which something failed is not used again."""
        surplus = None if sound else pooled
        with self._lock:
            if sound and self._closed:
                surplus = pooled
            elif sound:
                if pooled.generation != self._generation:
                    self._sweep(pooled)
                self._idle.append(pooled)
                if len(self._idle) > _MAX_IDLE_CONTEXTS:
                    surplus = self._idle.pop(0)
        try:
            if surplus is not None:
                surplus.context.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            last = self._closed and self._busy == 0
        if last:
            self._backend.close()

    def _sweep(self, pooled: _Pooled) -> None:
        """Drop the programs of domains that were forgotten, and what runs that were under way have made for them."""
        for key in [key for key in pooled.programs if key[0] not in self._alive]:
            del pooled.programs[key]
        self._drop_weights()
        pooled.generation = self._generation

    def _drop_weights(self) -> None:
        for key in [key for key in list(self._weights) if key not in self._alive]:
            self._weights.pop(key, None)

    # -- programs

    def _program(self, pooled: _Pooled, bound: Bound, overrides: Tuple[Tuple[int, bool], ...]) -> Program:
        key = (bound.key, overrides)
        program = pooled.programs.get(key)
        if program is None:
            program = self._bind(pooled, bound, dict(overrides))
            pooled.programs[key] = program
            if len(pooled.programs) > _MAX_PROGRAMS:
                pooled.programs.popitem(last=False)
        elif len(pooled.programs) == _MAX_PROGRAMS:
            pooled.programs.move_to_end(key)
        return program

    def _bind(self, pooled: _Pooled, bound: Bound, overrides: Dict[int, bool]) -> Program:
        ran = self._ran.copy()
        ran[:, [block for block, runs in overrides.items() if not runs]] = False
        return bind_program(
            pooled.context,
            self.layout,
            self.weights(bound),
            batch=pooled.batch,
            gated=bound.domain.gated,
            overrides=overrides,
            ran=ran,
        )


def _looked_at(context: ExecutionContext, seen: Seen, left: Array) -> Dict[str, Array]:
    """The values that belong to where images left: only these were computed for sure. They are on the host already."""
    last = len(seen) - 1
    names = {name for number in set(left.tolist()) for name in seen[min(number, last)]}
    return {name: np.array(context.gate(name)(), np.float32) for name in sorted(names)}


def _joined(pieces: Sequence[Tuple[int, Dict[str, Array]]]) -> Dict[str, Array]:
    """The values of several pieces, (images, values) each; zeros for the images of one that lacks a value."""
    some = {name: array for _, values in pieces for name, array in values.items()}
    return {
        name: np.concatenate(
            [values.get(name, np.zeros((count,) + array.shape[1:], np.float32)) for count, values in pieces]
        )
        for name, array in some.items()
    }
