"""Driving a backend through a layout: everything is looked up and bound once, then one short loop per run.

A run takes a free context of its batch size, or has one made. Each context keeps a program per domain: its calls bound to
the context's buffers and the domain's weights. So switching domains is taking another program, however many there are,
and the loops below read no name, no dict and make no array.
"""

import itertools
import threading
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..backends.interface import Backend, ExecutionContext
from ..bundle.bundle import Bundle
from ..bundle.plan import LOGITS
from ..errors import BackendError, DomainError
from ..records import Array, Block, Domain
from ..schedule.layout import Call, join_plan

# block number -> True: always runs, False: always skipped. A block that is not named is left to its gate.
Gates = Mapping[int, bool]

_MAX_PROGRAMS = 256  # a context's: more domains than that are bound again when they come back
_MAX_IDLE_LANES = 8

_keys = itertools.count()


class Bound(NamedTuple):
    """A domain ready to run. weights: where the backend wants them; key: no other domain ever bound has it."""

    domain: Domain
    weights: Any
    theta: float
    key: int


class _Step(NamedTuple):
    """One bound call; gate None: `run` always. The variants for some rows are None in a context for one image."""

    run: Callable[[], None]
    gate: Optional[Callable[[], Array]]
    skip: Callable[[], None]
    block: int
    run_rows: Any
    skip_rows: Any


class _Program(NamedTuple):
    steps: Tuple[_Step, ...]
    ran: Array  # bool (n_blocks,), before any gate has spoken


class _Track:
    """A context and its programs."""

    def __init__(self, context: ExecutionContext, batch: int) -> None:
        self.context = context
        self.batch = batch
        self.programs: "OrderedDict[Any, _Program]" = OrderedDict()
        self.generation = 0


class Scheduler:
    """One per opened bundle; any number of threads may run it."""

    def __init__(self, bundle: Bundle, backend: Backend, keep: Sequence[str] = ()) -> None:
        """Opens every subgraph, so that the first image is as fast as the next. keep: values that `run` can hand back."""
        self._bundle = bundle
        self._backend = backend
        self._layout = join_plan(bundle.manifest, backend.looks_ahead, keep)
        self._blocks = len(bundle.manifest.blocks)
        self._gateable = {call.block for call in self._layout.calls if call.gate is not None}
        self._lock = threading.Lock()
        self._idle: List[_Track] = []  # least recently used first
        self._busy = 0
        self._closed = False
        self._alive: Dict[int, bool] = {}
        self._generation = 0  # counts domains that were forgotten
        backend.open(self._layout, bundle)

    def bind(self, domain: Domain) -> Bound:
        """A domain `fitted` to this bundle, made ready to run."""
        # Gates are float32: comparing them with a float32 threshold is exact for one image and for a batch alike.
        bound = Bound(domain, self._backend.weights(domain), float(np.float32(domain.theta)), next(_keys))
        with self._lock:
            self._alive[bound.key] = True
        return bound

    def forget(self, bound: Bound) -> None:
        """Let go of what contexts hold for a domain. Runs under way with it end normally."""
        with self._lock:
            self._alive.pop(bound.key, None)
            self._generation += 1
            for track in self._idle:
                self._sweep(track)

    def run(self, bound: Bound, images: Array, gates: Optional[Gates] = None) -> Tuple[Array, Array]:
        """float32 (B, 3, size, size) -> logits float32 (B, classes), bool (B, n_blocks) of what ran."""
        logits, ran, _ = self._split(bound, images, (), gates)
        return logits, ran

    def trace(
        self, bound: Bound, images: Array, keep: Sequence[str], gates: Optional[Gates] = None
    ) -> Tuple[Array, Array, Dict[str, Array]]:
        """`run`, and the values of the plan named in `keep`. One inside a subgraph needs other subgraphs, which end where it
        is written: they are opened for this call."""
        if set(keep) <= set(self._layout.kept + self._layout.gates):
            return self._split(bound, images, keep, gates)
        tracer = Scheduler(self._bundle, self._backend.another(), keep)
        try:
            return tracer._split(tracer.bind(bound.domain), images, keep, gates)
        finally:
            tracer.close()

    def _split(
        self, bound: Bound, images: Array, keep: Sequence[str], gates: Optional[Gates]
    ) -> Tuple[Array, Array, Dict[str, Array]]:
        """A batch in pieces of what a context may take."""
        most = self._backend.max_batch or len(images)
        subgraphs = [
            self._run(bound, images[i : i + most], keep, tuple(sorted(gates.items())) if gates else ())
            for i in range(0, len(images), most)
        ]
        if len(subgraphs) == 1:
            return subgraphs[0]
        kept = {name: np.concatenate([subgraph[2][name] for subgraph in subgraphs]) for name in keep}
        return np.concatenate([p[0] for p in subgraphs]), np.concatenate([p[1] for p in subgraphs]), kept

    def close(self) -> None:
        """Free everything once the runs under way have ended; may be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            last = self._busy == 0
        for track in idle:
            track.context.close()
        if last:
            self._backend.close()

    # -- a run

    def _run(
        self, bound: Bound, images: Array, keep: Sequence[str], gates: Tuple[Tuple[int, bool], ...]
    ) -> Tuple[Array, Array, Dict[str, Array]]:
        track = self._take(len(images))
        sound = False
        try:
            program = self._program(track, bound, gates)
            context = track.context
            context.begin(images)
            try:
                ran = (_run_one if track.batch == 1 else _run_many)(program, bound.theta, track.batch)
                result = context.read(LOGITS), ran, {name: context.read(name) for name in keep}
            finally:
                context.end()
            sound = True
            return result
        finally:
            self._give_back(track, sound)

    def _take(self, batch: int) -> _Track:
        with self._lock:
            if self._closed:
                raise BackendError("this Runtime is closed; open the bundle again with Runtime(path)")
            self._busy += 1
            for number in reversed(range(len(self._idle))):
                if self._idle[number].batch == batch:
                    return self._idle.pop(number)
        try:
            return _Track(self._backend.context(batch), batch)
        except BaseException:
            self._leave()
            raise

    def _give_back(self, track: _Track, sound: bool) -> None:
        """A context in which something failed is not used again."""
        surplus = None if sound else track
        with self._lock:
            if sound and self._closed:
                surplus = track
            elif sound:
                if track.generation != self._generation:
                    self._sweep(track)
                self._idle.append(track)
                if len(self._idle) > _MAX_IDLE_LANES:
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

    def _sweep(self, track: _Track) -> None:
        for key in [key for key in track.programs if key[0] not in self._alive]:
            del track.programs[key]
        track.generation = self._generation

    # -- programs

    def _program(self, track: _Track, bound: Bound, gates: Tuple[Tuple[int, bool], ...]) -> _Program:
        key = (bound.key, gates, bound.domain.gated)
        program = track.programs.get(key)
        if program is None:
            program = self._bind(track, bound, dict(gates))
            track.programs[key] = program
            if len(track.programs) > _MAX_PROGRAMS:
                track.programs.popitem(last=False)
        elif len(track.programs) == _MAX_PROGRAMS:
            track.programs.move_to_end(key)
        return program

    def _bind(self, track: _Track, bound: Bound, gates: Dict[int, bool]) -> _Program:
        for block, runs in gates.items():
            if not 0 <= block < self._blocks or (not runs and block not in self._gateable):
                raise DomainError(
                    "block %d cannot be skipped; gateable blocks: %s"
                    % (block, ", ".join(str(b) for b in sorted(b for b in self._gateable if b is not None)) or "none")
                )
        ran = np.array([gates.get(block, True) for block in range(self._blocks)], dtype=bool)
        steps = tuple(_step(track, call, bound, gates) for call in self._layout.calls)
        return _Program(steps, ran)


def _step(track: _Track, call: Call, bound: Bound, gates: Dict[int, bool]) -> _Step:
    """A call of which a gate that is overruled is not read, and what cannot happen is not bound."""
    context, subgraph = track.context, call.subgraph
    free = call.gate is not None and bound.domain.gated and call.block not in gates
    if call.skip is not None and not free and call.block is not None and not gates.get(call.block, True):
        subgraph = call.skip
    run = context.bind(subgraph, bound.weights)
    if not free:
        return _Step(run, None, run, -1, None, None)
    assert call.gate is not None and call.skip is not None and call.block is not None
    skip = context.bind(call.skip, bound.weights)
    rows = (None, None)
    if track.batch > 1:
        rows = (context.bind_rows(subgraph, bound.weights), context.bind_rows(call.skip, bound.weights))  # type: ignore[assignment]
    return _Step(run, context.gate(call.gate), skip, call.block, rows[0], rows[1])


def _run_one(program: _Program, theta: float, batch: int) -> Array:
    """The hot loop: one image, a gate is one float. Returns bool (1, n_blocks)."""
    ran: Array = program.ran.reshape(1, -1).copy()
    for run, gate, skip, block, _, _ in program.steps:
        if gate is None or gate()[0] > theta:
            run()
        else:
            ran[0, block] = False
            skip()
    return ran


def _run_many(program: _Program, theta: float, batch: int) -> Array:
    """A batch: each image has its own gates; a block runs on the images that need it. bool (batch, n_blocks)."""
    ran = np.tile(program.ran, (batch, 1))
    for run, gate, skip, block, run_rows, skip_rows in program.steps:
        if gate is None:
            run()
            continue
        on = gate() > theta  # (batch,)
        ran[:, block] = on
        if on.all():
            run()
        elif not on.any():
            skip()
        else:
            run_rows(np.flatnonzero(on))
            skip_rows(np.flatnonzero(~on))
    return ran


def flops_share(blocks: Sequence[Block], ran: Array) -> Array:
    """bool (B, n_blocks) -> float64 (B,): operations of what ran over those of all blocks; 1.0 when there are
    none."""
    full = np.array([b.flops for b in blocks], dtype=np.float64)
    left = np.array([b.flops if b.skip_flops is None else b.skip_flops for b in blocks], dtype=np.float64)
    if full.sum() == 0:
        return np.ones(ran.shape[0])
    share: Array = np.where(ran, full, left).sum(axis=1) / full.sum()
    return share
