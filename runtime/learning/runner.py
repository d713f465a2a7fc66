"""One derived graph, ready to run, whatever runs it."""

from abc import ABC, abstractmethod
from typing import Dict

from ..records import Array


class GraphRunner(ABC):
    """A graph ready to run, for one thread at a time."""

    @abstractmethod
    def keep(self, feeds: Dict[str, Array]) -> None:
        """Inputs, float32 arrays by name, for all runs until the next call. They must not change meanwhile. What the
        graph does not read is left out."""

    @abstractmethod
    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """The inputs that are not kept, by name -> every output by name, in memory of their own. What the graph does
        not read is left out.

        Raises BackendError where the library fails.
        """

    def close(self) -> None:
        """Free everything."""
