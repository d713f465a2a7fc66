"""What a whole run on the engine holds at most, found by a short one in a process of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from da3.runtime.bundle import Bundle
from da3.runtime.system import keep_little, peak_bytes
from da3.runtime.training import ShortRun
from da3.toolchain.learning.lean import LeanTrainee
from da3.toolchain.process import measured_peak

WORKER = "da3.toolchain.learning.trial_process"


class Trial(NamedTuple):
    """A short run to try, on the bundle in the folder ``bundle``."""

    short: ShortRun
    bundle: str
    threads: int | None

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "short": self.short.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        return cls(**{**data, "short": ShortRun.from_json(data["short"])})

    def measured(self) -> int:
        """``run`` in a process of its own. Raises WorkerError where that fails."""
        return measured_peak(WORKER, self.to_json())

    def run(self) -> int:
        """Learn, evaluate and write as ``learn_on_engine`` does, in this process; the most bytes that it held."""
        keep_little()
        with Bundle(self.bundle) as bundle:
            trainee = LeanTrainee(bundle, self.short.config, self.threads)
            try:
                self.short.go(trainee, bundle.manifest.preprocessing)
            finally:
                trainee.close()
        return peak_bytes()
