"""One derived graph, ready to run, whatever runs it."""

from abc import ABC, abstractmethod
from typing import Dict, List, Sequence

from ..records import Array


class GraphRunner(ABC):
    """A graph ready to run, whose methods are called by one thread."""

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

    def run_side_by_side(self, feeds: Sequence[Dict[str, Array]]) -> List[Dict[str, Array]]:
        """What `run` gives for each of these, in their order; at the same time where the backend can."""
        return [self.run(few) for few in feeds]

    def close(self) -> None:
        """Free everything."""
