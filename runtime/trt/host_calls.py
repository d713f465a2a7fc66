"""What an execution context runs on the host, in numpy: exits' classifiers and the head, which have a size of the
domain's own and are too small to be worth a call of the device."""

from functools import partial
from typing import Callable, Dict, List, Mapping

import numpy as np

from ..backends.reference import Program
from ..bundle.plan import BATCH, DOMAIN
from ..records import Array
from ..schedule.layout import Subgraph

Values = Dict[str, Array]  # what subgraphs on the host wrote, by the plan's names: float32 (batch, ...)


class HostCall:
    """A subgraph bound to a domain's tensors, to be called for all images of an execution context or for some.

    fetched: for each value of the device, a call that waits for it and gives it, float32 (batch, ...). batch: how many
    images there are.
    """

    def __init__(
        self,
        program: Program,
        subgraph: Subgraph,
        *,
        weights: Mapping[str, Array],
        fetched: Mapping[str, Callable[[], Array]],
        values: Values,
        batch: int,
    ) -> None:
        named = list(zip(subgraph.inputs, subgraph.segment.inputs))
        own = {value.name: weights[name[len(DOMAIN) :]] for name, value in named if name.startswith(DOMAIN)}
        rest = [(name, value) for name, value in named if not name.startswith(DOMAIN)]
        self._run = program.bound(own)
        self._reads = [fetched.get(name) or partial(values.__getitem__, name) for name, _ in rest]
        self._by_row = [value.shape[:1] == (BATCH,) for _, value in rest]
        self._outputs = subgraph.outputs
        self._values = values
        self._batch = batch

    def __call__(self) -> None:
        values = self._values
        for name, result in zip(self._outputs, self._run([read() for read in self._reads])):
            values[name] = result

    def rows(self, rows: Array) -> None:
        """The same for these images alone; what was written for others is left as it is."""
        given: List[Array] = [read() for read in self._reads]
        given = [value[rows] if by_row else value for value, by_row in zip(given, self._by_row)]
        for name, result in zip(self._outputs, self._run(given)):
            whole = self._values.get(name)
            if whole is None or whole.shape[1:] != result.shape[1:]:  # that of another domain
                whole = self._values[name] = np.zeros((self._batch,) + result.shape[1:], result.dtype)
            whole[rows] = result
