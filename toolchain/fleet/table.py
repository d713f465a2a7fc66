"""What ``da3 fleet train`` shows: one live table of all domains, and where there is no terminal a line now and then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from da3.runtime.system import render_bytes
from da3.runtime.training import Pace
from da3.toolchain.fleet.cluster import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Connected, Outcome, State
from da3.toolchain.fleet.earlier import Left
from da3.toolchain.fleet.places import shown
from da3.toolchain.fleet.plan import FleetPlan

_ORDER = (RUNNING, FAILED, WAITING, STOPPED, FINISHED)  # of rows, where there is no room for all
_LINES_AROUND = 6  # of the terminal's, that are no rows


def plan_table(plan: FleetPlan, left: Iterable[Left]) -> Table:
    """What would be done: of each domain how far it is, and what it asks of a node."""
    table = Table("domain", "state", "cpus", "gpus", "memory", "engine", "photos", box=None, pad_edge=False)
    for job, one in zip(plan.jobs, left, strict=True):
        begun = "goes on" if one.begun else "new"
        state = "finished" if one.job is None else "again" if one.job.overwrite else begun
        memory = render_bytes(job.memory) if job.memory else ""
        cells = (job.name, state, f"{job.cpus}", f"{job.gpus:g}", memory, job.engine, shown(str(job.options["data"])))
        table.add_row(*map(Text, cells))
    return table


class FleetReporter(Protocol):
    """Whoever is told how a fleet goes."""

    def looking(self, done: int, total: int) -> None:
        """So many domains were looked up among those of earlier calls."""

    def begin(self, names: list[str], there: Mapping[str, float | None]) -> None:
        """All domains, and the accuracy of those that are finished already."""

    def connected(self, cluster: Connected) -> None:
        """The cluster answers."""

    def state(self, state: State) -> None:
        """How a domain goes."""

    def outcome(self, outcome: Outcome) -> None:
        """How a domain ended."""

    def bundling(self, place: str, done: int, total: int) -> None:
        """So many domains are in the bundle."""


class LiveTable:
    """Shows it to people, on stderr; used as a context manager, so that the table always ends cleanly."""

    def __init__(self, console: Console | None = None, quiet: bool = False):
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet, self.pace = quiet, Pace()
        self.states: dict[str, State] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.names: list[str] = []
        self.note = ""
        self.live = Live(get_renderable=self.rendered, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal and not self.quiet:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.live.stop()

    def looking(self, done: int, total: int) -> None:
        self.note = f"looking at what is there: {done} of {total}"
        self._line_now_and_then(self.note)

    def begin(self, names: list[str], there: Mapping[str, float | None]) -> None:
        self.names, self.note = names, "connecting"
        self.outcomes = {name: Outcome(name, FINISHED, accuracy=accuracy) for name, accuracy in there.items()}
        if there:
            self.say(f"{len(there)} of {len(names)} domains are finished already")

    def connected(self, cluster: Connected) -> None:
        cpus = sum(found.get("CPU", 0.0) for found in cluster.nodes.values())
        gpus = sum(found.get("GPU", 0.0) for found in cluster.nodes.values())
        has = f"{cpus:g} CPUs" + (f", {gpus:g} GPUs" if gpus else "")
        self.note = f"{_count(len(cluster.nodes), 'node')}, {has}"
        self.say(f"{_count(len(self.names) - len(self.outcomes), 'domain')} to train on {self.note}")

    def state(self, state: State) -> None:
        before = self.states.get(state.name)
        self.states[state.name] = state
        if state.lost:
            self.say(f"{state.name}: its node is gone; it goes on elsewhere from its last checkpoint")
        elif state.attempt > 1 and (before is None or before.attempt < state.attempt):
            self.say(f"{state.name}: goes on after it was lost, on {state.node} (attempt {state.attempt})")
        if state.trouble and (before is None or before.trouble != state.trouble):
            self.say(f"{state.name}: {state.trouble}")
        self._line_now_and_then(self.summary())

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = outcome
        if outcome.state == FAILED:
            self.console.print(f"error: domain {outcome.name}: {outcome.why}", markup=False)
        elif outcome.state == FINISHED:
            self.say(f"{outcome.name}: {_percent(outcome.accuracy)} on the validation photos")

    def bundling(self, place: str, done: int, total: int) -> None:
        self.note = f"bundling: {done} of {total} domains"
        self._line_now_and_then(self.note)

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def summary(self) -> str:
        """All in a line."""
        counts = dict.fromkeys(_ORDER, 0)
        for name in self.names:
            counts[self._state(name)] += 1
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count)

    def rendered(self) -> Group:
        """The table: every domain, or of many those that are at work, and how many more there are."""
        room = max(4, self.console.height - _LINES_AROUND)
        rows = self.names
        if len(rows) > room:
            rows = sorted(rows, key=lambda name: _ORDER.index(self._state(name)))[:room]
        table = Table("domain", "state", "node", "done", "accuracy", box=None, pad_edge=False)
        for name in rows:
            table.add_row(*self._row(name))
        more = [Text(f"and {len(self.names) - len(rows)} more")] if len(rows) < len(self.names) else []
        return Group(
            *([table] if self.names else []), *more, Text("; ".join(filter(None, (self.summary(), self.note))))
        )

    def _row(self, name: str) -> Iterable[Text]:
        state, outcome = self.states.get(name), self.outcomes.get(name)
        if outcome is not None:
            words = outcome.state if outcome.why is None else f"{outcome.state}: {outcome.why}"
            done = "100 %" if outcome.state == FINISHED else ""
            return [Text(word) for word in (name, words[:100], "", done, _percent(outcome.accuracy))]
        if state is None or state.state == WAITING:
            return [Text(word) for word in (name, WAITING, "", "", "")]
        done = "" if state.done is None else f"{state.done:.0%}"
        return [Text(w) for w in (name, state.doing or RUNNING, state.node or "", done, _percent(state.accuracy))]

    def _state(self, name: str) -> str:
        if name in self.outcomes:
            return self.outcomes[name].state
        return self.states[name].state if name in self.states else WAITING

    def _line_now_and_then(self, text: str) -> None:
        if text and not self.console.is_terminal and self.pace.due():
            self.say(text)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
