"""The board of a fleet: an actor beside the driver, to which every domain's task says how it goes, and which tells it
when to stop."""

from __future__ import annotations

from typing import Any

WAITING, RUNNING, FINISHED, STOPPED, FAILED = "waiting", "running", "finished", "stopped", "failed"


class Board:
    """By job: ``attempt`` (from 1; of those before it nobody hears any more), ``node``, and what its task last said."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Any]] = {}
        self._changed: set[str] = set()
        self._stopping = False

    def begin(self, name: str, node: str) -> int:
        """A task begins a job, on that node. Returns which attempt that is; 0 where nothing is to begin any more."""
        if self._stopping:
            return 0
        attempt = int(self._states.get(name, {}).get("attempt", 0)) + 1
        self._states[name] = {"attempt": attempt, "node": node}
        self._changed.add(name)
        return attempt

    def say(self, name: str, attempt: int, facts: dict[str, Any]) -> bool:
        """How an attempt goes. Returns whether it is to stop: all are, or another has begun in its place."""
        state = self._states[name]
        if state["attempt"] != attempt:
            return True
        state.update(facts)
        self._changed.add(name)
        return self._stopping

    def changes(self) -> dict[str, dict[str, Any]]:
        """The states that are others than at the last call."""
        changed, self._changed = self._changed, set()
        return {name: dict(self._states[name]) for name in changed}

    def stop(self) -> list[str]:
        """From now on every task is told to stop. Returns the jobs that have begun."""
        self._stopping = True
        return list(self._states)
