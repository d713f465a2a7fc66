"""Driving a backend through a layout: everything is looked up and bound once, then one short loop per run.

A run takes a free context of its batch size, or has one made. Each context keeps a program for each domain: the
layout's calls, bound to the context's buffers and the domain's weights. To switch domains is to take another program,
however many there are, and the loop for one image looks up no name and makes no array but its result.
"""

import itertools
import threading
from collections import OrderedDict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..backends.interface import Backend, ExecutionContext
from ..bundle.bundle import Bundle
from ..bundle.plan import LOGITS
from ..errors import BackendError
from ..records import Array, Domain
from ..schedule.decisions import Overrides, check_overrides, forced, opens, threshold
from ..schedule.layout import Call, join_plan

_MAX_PROGRAMS = 256  # of one context; with more domains than that, programs are bound again when they come back
_MAX_IDLE_CONTEXTS = 8

_keys = itertools.count()


class Bound(NamedTuple):
    """A domain ready to run. weights: where the backend wants them; theta: its threshold as gates are compared with it;
    key: no other domain ever bound has it."""

    domain: Domain
    weights: Any
    theta: float
    key: int

    def with_theta(self, theta: float) -> "Bound":
        """The same domain, with the same weights and key, and another threshold."""
        return self._replace(domain=self.domain._replace(theta=theta), theta=threshold(theta))


class Outcome(NamedTuple):
    """What a run gives. logits: float32 (B, classes). blocks: bool (B, n_blocks), True where the block ran. values: the
    values of the plan that were asked for, (B, ...) each."""

    logits: Array
    blocks: Array
    values: Dict[str, Array]


class _BoundCall(NamedTuple):
    """One call of a layout, bound to a context. `run` is called where the gate opens, or where there is none (gate is
    None); `skip` is called otherwise. run_rows and skip_rows do the same for some images of a batch; they are None in a
    context for one image."""

    run: Callable[[], None]
    gate: Optional[Callable[[], Array]]
    skip: Callable[[], None]
    block: int = -1
    run_rows: Any = None
    skip_rows: Any = None


class _Program(NamedTuple):
    calls: Tuple[_BoundCall, ...]
    ran: Array  # bool (n_blocks,): what runs unless a gate says otherwise


class _Pooled:
    """A context and its programs. generation: that of the scheduler when programs of forgotten domains last went."""

    def __init__(self, context: ExecutionContext, batch: int) -> None:
        self.context = context
        self.batch = batch
        self.programs: "OrderedDict[Any, _Program]" = OrderedDict()
        self.generation = 0


class Scheduler:
    """One per opened bundle; any number of threads may run it."""

    def __init__(self, bundle: Bundle, backend: Backend, readable: Sequence[str] = ()) -> None:
        """Opens every subgraph, so that the first image is as fast as the next. readable: values of the plan that
        `trace` can read from these subgraphs; it opens others for what is not among them."""
        self._bundle = bundle
        self._backend = backend
        self._layout = join_plan(bundle.manifest, backend.looks_ahead, readable)
        self._blocks = len(bundle.manifest.blocks)
        self._gateable = {call.block for call in self._layout.calls if call.block is not None}
        self._lock = threading.Lock()
        self._idle: List[_Pooled] = []  # least recently used first
        self._busy = 0
        self._closed = False
        self._alive: Dict[int, bool] = {}
        self._generation = 0  # counts domains that were forgotten
        backend.open(self._layout, bundle)

    def bind(self, domain: Domain) -> Bound:
        """A domain `fitted` to this bundle, made ready to run."""
        bound = Bound(domain, self._backend.weights(domain), threshold(domain.theta), next(_keys))
        with self._lock:
            self._alive[bound.key] = True
        return bound

    def forget(self, bound: Bound) -> None:
        """Let go of what contexts hold for a domain. Runs under way with it end normally."""
        with self._lock:
            self._alive.pop(bound.key, None)
            self._generation += 1
            for pooled in self._idle:
                self._sweep(pooled)

    def run(self, bound: Bound, images: Array, overrides: Optional[Overrides] = None) -> Outcome:
        """float32 (B, 3, size, size), C-contiguous -> Outcome, without values of the plan."""
        return self._run_in_pieces(bound, images, (), overrides)

    def trace(
        self, bound: Bound, images: Array, watched: Sequence[str], overrides: Optional[Overrides] = None
    ) -> Outcome:
        """`run`, and the values of the plan named in `watched`.

        A value inside a subgraph cannot be read from it. For such a one, subgraphs that end where it is written are
        opened for this call.
        """
        if set(watched) <= set(self._layout.readable + self._layout.gates):
            return self._run_in_pieces(bound, images, watched, overrides)
        tracer = Scheduler(self._bundle, self._backend.another(), watched)
        try:
            return tracer._run_in_pieces(tracer.bind(bound.domain), images, watched, overrides)
        finally:
            tracer.close()

    def _run_in_pieces(
        self, bound: Bound, images: Array, watched: Sequence[str], overrides: Optional[Overrides]
    ) -> Outcome:
        """A batch, in pieces of the size that a context may take."""
        most = self._backend.max_batch or len(images)
        key = tuple(sorted(overrides.items())) if overrides else ()
        pieces = [self._run(bound, images[i : i + most], watched, key) for i in range(0, len(images), most)]
        if len(pieces) == 1:
            return pieces[0]
        return Outcome(
            np.concatenate([piece.logits for piece in pieces]),
            np.concatenate([piece.blocks for piece in pieces]),
            {name: np.concatenate([piece.values[name] for piece in pieces]) for name in watched},
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
        self, bound: Bound, images: Array, watched: Sequence[str], overrides: Tuple[Tuple[int, bool], ...]
    ) -> Outcome:
        pooled = self._take(len(images))
        sound = False
        try:
            program = self._program(pooled, bound, overrides)
            context = pooled.context
            context.begin(images)
            try:
                ran = (_run_one if pooled.batch == 1 else _run_many)(program, bound.theta, pooled.batch)
                outcome = Outcome(context.read(LOGITS), ran, {name: context.read(name) for name in watched})
            finally:
                context.end()
            sound = True
            return outcome
        finally:
            self._give_back(pooled, sound)

    def _take(self, batch: int) -> _Pooled:
        with self._lock:
            if self._closed:
                raise BackendError("this Runtime is closed; open the bundle again with Runtime(path)")
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
        """Drop the programs of domains that were forgotten."""
        for key in [key for key in pooled.programs if key[0] not in self._alive]:
            del pooled.programs[key]
        pooled.generation = self._generation

    # -- programs

    def _program(self, pooled: _Pooled, bound: Bound, overrides: Tuple[Tuple[int, bool], ...]) -> _Program:
        key = (bound.key, overrides, bound.domain.gated)
        program = pooled.programs.get(key)
        if program is None:
            program = self._bind(pooled, bound, dict(overrides))
            pooled.programs[key] = program
            if len(pooled.programs) > _MAX_PROGRAMS:
                pooled.programs.popitem(last=False)
        elif len(pooled.programs) == _MAX_PROGRAMS:
            pooled.programs.move_to_end(key)
        return program

    def _bind(self, pooled: _Pooled, bound: Bound, overrides: Dict[int, bool]) -> _Program:
        check_overrides(overrides, self._blocks, self._gateable)
        ran = np.array([overrides.get(block, True) for block in range(self._blocks)], dtype=bool)
        return _Program(tuple(_bind_call(pooled, call, bound, overrides) for call in self._layout.calls), ran)


def _bind_call(pooled: _Pooled, call: Call, bound: Bound, overrides: Overrides) -> _BoundCall:
    """Bind what may happen, and nothing else: a gate that does not decide is not read."""
    context, weights = pooled.context, bound.weights
    decided = forced(call.gate, call.block, bound.domain.gated, overrides)
    chosen = call.skip if decided is False and call.skip is not None else call.subgraph
    run = context.bind(chosen, weights)
    if decided is not None:
        return _BoundCall(run, None, run)
    assert call.gate is not None and call.skip is not None and call.block is not None
    gate, skip = context.gate(call.gate), context.bind(call.skip, weights)
    if pooled.batch == 1:
        return _BoundCall(run, gate, skip, call.block)
    run_rows, skip_rows = context.bind_rows(call.subgraph, weights), context.bind_rows(call.skip, weights)
    return _BoundCall(run, gate, skip, call.block, run_rows, skip_rows)


def _run_one(program: _Program, theta: float, batch: int) -> Array:
    """The hot loop: one image, a gate is one float. Returns bool (1, n_blocks)."""
    ran: Array = program.ran.reshape(1, -1).copy()
    for run, gate, skip, block, _, _ in program.calls:
        if gate is None or opens(gate()[0], theta):
            run()
        else:
            ran[0, block] = False
            skip()
    return ran


def _run_many(program: _Program, theta: float, batch: int) -> Array:
    """A batch: each image has its own gates, and a block runs on the images that need it. Returns bool (batch,
    n_blocks)."""
    ran = np.tile(program.ran, (batch, 1))
    for run, gate, skip, block, run_rows, skip_rows in program.calls:
        if gate is None:
            run()
            continue
        on = opens(gate(), theta)  # (batch,)
        ran[:, block] = on
        if on.all():
            run()
        elif not on.any():
            skip()
        else:
            run_rows(np.flatnonzero(on))
            skip_rows(np.flatnonzero(~on))
    return ran
