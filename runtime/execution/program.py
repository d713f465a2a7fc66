"""The calls of a run, bound to an execution context, and the loops that make them.

To switch domains is to take another program, however many there are, and the loop for one image looks up no name and
makes no array but its result.

On a device that looks ahead, what runs on the host waits for the device. Such calls are put off where the device can be
given its next part first: to the end behind an exit where nobody leaves, past one part where so few leave that running
it in vain for them costs less than the wait (see schedule/look_ahead.py).
"""

from math import isfinite
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..backends.interface import ExecutionContext
from ..bundle.plan import LOGITS
from ..errors import BackendError
from ..records import Array
from ..schedule.decisions import Leaving, Overrides, forced, opens, spread_one, spread_rows
from ..schedule.layout import Call, Layout


class NotFinite(BackendError):
    """NaN or infinity in a gate, or in the logits of an exit or of the end. The message names the place."""

    def __init__(self, where: str) -> None:
        super().__init__("%s: NaN or infinity" % where)


class BoundCall(NamedTuple):
    """One call of a layout, bound to a context. `run` is called where the gate opens, or where there is none (gate is
    None); `skip` is called otherwise. run_rows and skip_rows do the same for some images of a batch; they are None in a
    context for one image. answer: gives the logits of the exit behind the call, whose number is `exit`. host: see
    Subgraph."""

    run: Callable[[], None]
    gate: Optional[Callable[[], Array]]
    skip: Callable[[], None]
    block: int = -1
    run_rows: Any = None
    skip_rows: Any = None
    answer: Optional[Callable[[], Array]] = None
    exit: int = -1
    host: bool = False


class Exits(NamedTuple):
    """What is decided at the exits of a layout. rules: who leaves at each; ahead: where a device that looks ahead is
    given its next part before that is known."""

    rules: Sequence[Leaving]
    ahead: Sequence[bool]


class Program(NamedTuple):
    """ran: bool (exits + 1, n_blocks), what a picture has run that left at each exit, or went to the end, unless a gate
    says otherwise. end: a copy of the logits of those that went to the end. hosted: some calls run on the host, beside
    a device that looks ahead."""

    calls: Tuple[BoundCall, ...]
    ran: Array
    end: Callable[[], Array]
    hosted: bool


class Answer(NamedTuple):
    """logits: float32 (B, classes). ran: bool (B, n_blocks). left: int64 (B,)."""

    logits: Array
    ran: Array
    left: Array


def bind_program(
    context: ExecutionContext,
    layout: Layout,
    weights: Any,
    *,
    batch: int,
    gated: bool,
    overrides: Overrides,
    ran: Array,
) -> Program:
    """Bind what may happen, and nothing else: a gate that does not decide is not read.

    weights: what the backend made of the domain. gated: whether the domain's gates decide. ran: as in Program.
    """
    bound: List[BoundCall] = []
    for call in layout.calls:
        one = _bind(context, call, weights, batch, gated, overrides)._replace(host=call.subgraph.host)
        bound.append(one if call.exit is None else one._replace(answer=context.gate(call.answer), exit=call.exit))
    # After an exit a batch may go on with some of its images.
    if batch > 1 and any(call.exit is not None for call in layout.calls):
        first = next(i for i, call in enumerate(layout.calls) if call.exit is not None)
        for i in range(first + 1, len(bound)):
            bound[i] = bound[i]._replace(run_rows=context.bind_rows(layout.calls[i].subgraph, weights))
    return Program(tuple(bound), ran, lambda: context.read(LOGITS), any(call.host for call in bound))


def run(program: Program, theta: float, exits: Exits, batch: int) -> Answer:
    """Run a program on the images of its context. theta: that of the domain's gates.

    Raises NotFinite where something is decided by what is no number: a NaN is above no threshold, so a block would be
    skipped, or an exit passed by, and nobody told.
    """
    calls = in_order(program.calls, exits) if program.hosted else program.calls
    if batch == 1:
        return _run_one(program, calls, theta, exits.rules)
    return _run_many(program, calls, theta, exits.rules, batch)


def in_order(calls: Sequence[BoundCall], exits: Exits) -> List[BoundCall]:
    """The order of the calls on a device that looks ahead: those on the host are put off, see the module."""
    rules, ahead = exits
    ordered: List[BoundCall] = []
    late: List[BoundCall] = []
    due = False  # somebody may leave at one of those that were put off
    for call in calls:
        if call.host:
            late.append(call)
            possible = call.exit >= 0 and rules[call.exit].limit > 0
            if call.exit >= 0 and (not possible or ahead[call.exit]):
                due = due or possible
                continue
        else:
            ordered.append(call)
            if not due:
                continue
        ordered += late
        late, due = [], False
    return ordered + late


def _bind(
    context: ExecutionContext, call: Call, weights: Any, batch: int, gated: bool, overrides: Overrides
) -> BoundCall:
    decided = forced(call.gate, call.block, gated, overrides)
    chosen = call.skip if decided is False and call.skip is not None else call.subgraph
    run = context.bind(chosen, weights)
    if decided is not None:
        return BoundCall(run, None, run)
    assert call.gate is not None and call.skip is not None and call.block is not None
    gate, skip = context.gate(call.gate), context.bind(call.skip, weights)
    if batch == 1:
        return BoundCall(run, gate, skip, call.block)
    run_rows, skip_rows = context.bind_rows(call.subgraph, weights), context.bind_rows(call.skip, weights)
    return BoundCall(run, gate, skip, call.block, run_rows, skip_rows)


def _run_one(program: Program, calls: Sequence[BoundCall], theta: float, rules: Sequence[Leaving]) -> Answer:
    """The hot loop: one image. rules: one for each exit of the layout."""
    ran = None
    number = -1
    for run, gate, skip, block, _, _, answer, exit, _ in calls:
        if gate is None:
            run()
        else:
            logit = gate()[0]
            if not isfinite(logit):
                raise NotFinite("the gate of block %d" % block)
            if opens(logit, theta):
                run()
            else:
                ran = program.ran[-1:].copy() if ran is None else ran
                ran[0, block] = False
                skip()
        if answer is not None:
            scale, limit = rules[exit]
            if limit > 0:  # somebody may leave
                logits = answer()
                spread = spread_one(logits, scale)
                if spread < limit:
                    number = exit
                    break
                if spread != spread:
                    raise NotFinite("the logits of exit %d" % exit)
    if number >= 0:
        return Answer(logits.copy(), program.ran[number : number + 1].copy(), np.array([number], np.int64))
    left = np.array([len(program.ran) - 1], np.int64)
    return Answer(program.end(), program.ran[-1:].copy() if ran is None else ran, left)


def _run_many(
    program: Program, calls: Sequence[BoundCall], theta: float, rules: Sequence[Leaving], batch: int
) -> Answer:
    """A batch: a gated block runs on the images that need it, and those that leave at an exit are taken out."""
    ran = np.tile(program.ran[-1], (batch, 1))
    left = np.full(batch, len(program.ran) - 1, np.int64)
    rows = np.arange(batch)  # of those that have not left
    early: Optional[Array] = None
    for run, gate, skip, block, run_rows, skip_rows, answer, exit, _ in calls:
        if gate is None:
            _on_rows(run, run_rows, rows, batch)
        else:
            gates = gate()  # (batch,)
            if not np.isfinite(gates).all():
                raise NotFinite("the gate of block %d" % block)
            on = opens(gates, theta)
            ran[:, block] = on
            _on_rows(run, run_rows, rows[on[rows]], batch)
            _on_rows(skip, skip_rows, rows[~on[rows]], batch)
        if answer is not None and rules[exit].limit > 0:
            logits = answer()
            spreads = spread_rows(logits[rows], rules[exit].scale)
            if np.isnan(spreads).any():
                raise NotFinite("the logits of exit %d" % exit)
            gone = spreads < rules[exit].limit
            if gone.any():
                early = np.empty_like(logits) if early is None else early
                leaving, rows = rows[gone], rows[~gone]
                early[leaving] = logits[leaving]
                ran[leaving] = program.ran[exit]
                left[leaving] = exit
                if not len(rows):
                    return Answer(early, ran, left)
    end = program.end()
    if early is None:
        return Answer(end, ran, left)
    early[rows] = end[rows]
    return Answer(early, ran, left)


def _on_rows(run: Callable[[], None], run_rows: Any, rows: Array, batch: int) -> None:
    if len(rows) == batch:
        run()
    elif len(rows):
        run_rows(rows)
