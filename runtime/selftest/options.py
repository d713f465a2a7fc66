"""What a self-test is asked to test, as it is handed to the processes of its stages."""

import json
from typing import Any, Dict, NamedTuple, Optional

from ..backends.interface import Backend
from ..bundle.bundle import Bundle
from ..execution.choice import choose

TIMEOUT_S = 600  # in which a stage must have said something


class SelftestOptions(NamedTuple):
    """bundle: its path. backend, threads, precision, engines: as for Runtime. quick: less of everything, no engine is
    built. timeout: the seconds that a stage may be silent for."""

    bundle: str = "bundle"
    backend: str = "auto"
    threads: Optional[int] = None
    precision: Optional[str] = None
    engines: Optional[str] = None
    quick: bool = False
    timeout: float = TIMEOUT_S

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    def new_backend(self, bundle: Bundle) -> Backend:
        """The backend that is tested, not opened yet. Raises BackendError."""
        return choose(self.backend, bundle, self.threads, self.precision, self.engines)

    def runtime_words(self) -> Dict[str, Any]:
        """What `Runtime` is opened with, beside the bundle."""
        return {name: getattr(self, name) for name in ("backend", "threads", "precision", "engines")}


def options_of(text: str) -> SelftestOptions:
    """What `to_json` wrote."""
    return SelftestOptions(**json.loads(text))
