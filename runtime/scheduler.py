"""Interpreting a plan: compiled once into flat lists, then one short loop per batch.

Values live in numbered slots. The weights of a domain are slots too, so a domain is a list of slots with its
weights filled in (`bind`), and switching domains is taking another list. What a step needs is looked up here,
once: the loop in `run` reads no name and no dict.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .backends import Backend, Run
from .bundle import Bundle
from .errors import DomainError
from .plan import BATCH, DOMAIN, IMAGE, LOGITS
from .records import Array, Block, Domain, Step

# block number -> True: always runs, False: always skipped. A block that is not named is left to its gate.
Gates = Mapping[int, bool]

_MAX_PROGRAMS = 64  # a sweep over sets of blocks must not fill memory


class Bound(NamedTuple):
    """A domain ready to run: its weights, where the backend wants them, in their slots."""

    domain: Domain
    slots: List[Any]
    theta: float


class _Op(NamedTuple):
    run: Run
    inputs: Tuple[int, ...]
    outputs: Tuple[int, ...]
    dead: Tuple[int, ...]  # slots nobody reads after this step: freed, so that a batch's peak memory stays low
    block: int
    gate: int  # slot of the gate logits, -1: always runs
    skip: Run  # `run` again when the step has none
    batched: Tuple[bool, ...]  # per input: is its first dimension the batch?


class _Program(NamedTuple):
    ops: Tuple[_Op, ...]
    ran: List[bool]  # per block, before any gate has spoken
    keep: Tuple[Tuple[str, int], ...]  # (value name, slot) to hand back


class Scheduler:
    """One per opened bundle. Immutable once built but for a cache, so any number of threads may run it."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Opens every segment of the plan, so that the first image is as fast as the next."""
        self._manifest = bundle.manifest
        self._to_host = backend.to_host
        self._to_device = backend.to_device
        self._slots: Dict[str, int] = {IMAGE: 0}
        self._programs: Dict[Any, _Program] = {}
        runs: Dict[str, Run] = {}
        for step in self._manifest.plan:
            for name in (step.segment, step.skip):
                if name is not None and name not in runs:
                    runs[name] = backend.open(self._manifest.segments[name], bundle)
            for name in step.inputs + step.outputs:
                self._slots.setdefault(name, len(self._slots))
        self._ops = [self._op(step, runs) for step in self._manifest.plan]

    def bind(self, domain: Domain) -> Bound:
        """A domain that `check_fits` this bundle, made ready to run."""
        slots: List[Any] = [None] * len(self._slots)
        for name, slot in self._slots.items():
            if name.startswith(DOMAIN):
                slots[slot] = self._to_device(domain.weights[name[len(DOMAIN) :]])
        # Gates are float32: comparing them with a float32 threshold is exact for one image and for a batch
        # alike.
        return Bound(domain, slots, float(np.float32(domain.theta)))

    def run(self, bound: Bound, images: Array, gates: Optional[Gates] = None) -> Tuple[Array, Array]:
        """float32 (B, 3, size, size) -> logits float32 (B, classes), bool (B, n_blocks) of what ran."""
        values, ran = self._interpret(self._program(bound.domain.gated, gates, ()), bound, images)
        return self._to_host(values[self._slots[LOGITS]]), ran

    def trace(
        self, bound: Bound, images: Array, keep: Sequence[str], gates: Optional[Gates] = None
    ) -> Tuple[Array, Array, Dict[str, Array]]:
        """`run`, and the values of the plan named in `keep` as well."""
        unknown = [name for name in keep if name not in self._slots]
        if unknown:
            raise DomainError("no value %r in the plan; it has: %s" % (unknown[0], ", ".join(self._slots)))
        program = self._program(bound.domain.gated, gates, tuple(keep))
        values, ran = self._interpret(program, bound, images)
        kept = {name: self._to_host(values[slot]) for name, slot in program.keep}
        return self._to_host(values[self._slots[LOGITS]]), ran, kept

    def _interpret(self, program: _Program, bound: Bound, images: Array) -> Tuple[List[Any], Array]:
        values = bound.slots[:]
        values[0] = self._to_device(images)
        if images.shape[0] == 1:
            return values, self._run_one(program, bound.theta, values)
        return values, self._run_many(program, bound.theta, values, images.shape[0])

    def _run_one(self, program: _Program, theta: float, values: List[Any]) -> Array:
        """The hot loop: one image, a gate is one float."""
        to_host = self._to_host
        ran = program.ran[:]
        for run, inputs, outputs, dead, block, gate, skip, _ in program.ops:
            if gate >= 0 and not to_host(values[gate]).item() > theta:
                ran[block] = False
                run = skip
            for slot, value in zip(outputs, run([values[i] for i in inputs])):
                values[slot] = value
            for slot in dead:
                values[slot] = None
        return np.array([ran], dtype=bool)

    def _run_many(self, program: _Program, theta: float, values: List[Any], batch: int) -> Array:
        """A batch: each sample has its own gates; a block runs on the samples that need it."""
        ran = np.tile(np.array(program.ran, dtype=bool), (batch, 1))  # (B, n_blocks)
        for op in program.ops:
            arguments = [values[i] for i in op.inputs]
            if op.gate < 0:
                results = op.run(arguments)
            else:
                on = self._to_host(values[op.gate]) > theta  # (B,)
                ran[:, op.block] = on
                if on.all():
                    results = op.run(arguments)
                elif not on.any():
                    results = op.skip(arguments)
                else:
                    results = self._run_mixed(op, arguments, on)
            for slot, value in zip(op.outputs, results):
                values[slot] = value
            for slot in op.dead:
                values[slot] = None
        return ran

    def _run_mixed(self, op: _Op, arguments: List[Any], on: Array) -> List[Any]:
        """Gather the samples that run and those that skip, then put the results back in order."""
        merged: List[Array] = []
        for run, rows in ((op.run, np.flatnonzero(on)), (op.skip, np.flatnonzero(~on))):
            part = run(
                [
                    self._to_device(self._to_host(value)[rows]) if batched else value
                    for value, batched in zip(arguments, op.batched)
                ]
            )
            for number, value in enumerate(part):
                value = self._to_host(value)
                if number == len(merged):
                    merged.append(np.empty(on.shape + value.shape[1:], dtype=value.dtype))
                merged[number][rows] = value
        return [self._to_device(value) for value in merged]

    def _op(self, step: Step, runs: Dict[str, Run]) -> _Op:
        run = runs[step.segment]
        return _Op(
            run=run,
            inputs=tuple(self._slots[name] for name in step.inputs),
            outputs=tuple(self._slots[name] for name in step.outputs),
            dead=(),
            block=-1 if step.block is None else step.block,
            gate=-1 if step.gate is None else self._slots[step.gate],
            skip=run if step.skip is None else runs[step.skip],
            batched=tuple(v.shape[:1] == (BATCH,) for v in self._manifest.segments[step.segment].inputs),
        )

    def _program(self, gated: bool, gates: Optional[Gates], keep: Tuple[str, ...]) -> _Program:
        key = (gated, tuple(sorted(gates.items())) if gates else (), keep)
        program = self._programs.get(key)
        if program is None:
            program = self._compile(gated, gates or {}, keep)
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.clear()
            self._programs[key] = program
        return program

    def _compile(self, gated: bool, gates: Gates, keep: Tuple[str, ...]) -> _Program:
        gateable = {op.block for op in self._ops if op.gate >= 0}
        blocks = len(self._manifest.blocks)
        for block, runs in gates.items():
            if not 0 <= block < blocks or (not runs and block not in gateable):
                raise DomainError(
                    "block %d cannot be skipped; gateable blocks: %s"
                    % (block, ", ".join(str(b) for b in sorted(gateable)) or "none")
                )
        ran = [gates.get(block, True) for block in range(blocks)]
        ops = [self._decide(op, gated, gates) for op in self._ops]
        # From the back: the last step that reads (or writes) a slot frees it.
        alive = {slot for name, slot in self._slots.items() if name.startswith(DOMAIN) or name in keep}
        alive.add(self._slots[LOGITS])
        for i in reversed(range(len(ops))):
            used = set(ops[i].inputs + ops[i].outputs + ((ops[i].gate,) if ops[i].gate >= 0 else ()))
            ops[i] = ops[i]._replace(dead=tuple(sorted(used - alive)))
            alive |= used
        return _Program(tuple(ops), ran, tuple((name, self._slots[name]) for name in keep))

    @staticmethod
    def _decide(op: _Op, gated: bool, gates: Gates) -> _Op:
        """An op whose gate is overruled reads none."""
        if op.gate < 0 or (gated and op.block not in gates):
            return op
        return op._replace(gate=-1, run=op.run if gates.get(op.block, True) else op.skip)


def flops_share(blocks: Sequence[Block], ran: Array) -> Array:
    """bool (B, n_blocks) -> float64 (B,): operations of what ran over those of all blocks; 1.0 when there are
    none."""
    full = np.array([b.flops for b in blocks], dtype=np.float64)
    left = np.array([b.flops if b.skip_flops is None else b.skip_flops for b in blocks], dtype=np.float64)
    if full.sum() == 0:
        return np.ones(ran.shape[0])
    share: Array = np.where(ran, full, left).sum(axis=1) / full.sum()
    return share
