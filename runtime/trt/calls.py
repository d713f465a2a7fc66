"""A subgraph bound to an execution context's memory, ready to be called: on every image, or on some rows."""

from typing import Any, Callable, List, NamedTuple, Sequence

from ..cuda.interface import Cuda
from ..cuda.messages import first_line
from ..errors import BackendError
from ..records import Array
from .engine_runner import Setting
from .weights import Weights


class Place:
    """Where an execution context runs: on a stream, with engine contexts that are its own, or lent to it while it runs.

    address: that of the stream, as TensorRT takes it. runners: None while none are lent."""

    def __init__(self, cuda: Cuda, stream: Any) -> None:
        self.cuda = cuda
        self.stream = stream
        self.address = cuda.address(stream)
        self.runners: Any = None  # Runners


class SubgraphCall:
    """A subgraph on every image of the execution context. key: of its engine context; weights: held, so that their
    memory lives as long as the call; afterwards: called when the subgraph was started."""

    def __init__(
        self, place: Place, key: Any, setting: Setting, weights: Weights, afterwards: Sequence[Callable[[], None]]
    ) -> None:
        self._launch = place.cuda.launch
        self._stream = place.stream
        self._place = place
        self._key = key
        self._setting = setting
        self._placement = setting.placement
        self._domain = setting.domain
        self._weights = weights
        self._afterwards = afterwards

    def __call__(self) -> None:
        try:
            runner = self._place.runners.by_key[self._key]
            if runner.placement is not self._placement or runner.domain is not self._domain:
                runner.settle(self._setting)
                runner.run(self._stream, self._place.address)
            elif runner.graph is not None:
                self._launch(runner.graph, self._stream)
            else:
                runner.run(self._stream, self._place.address)
            for then in self._afterwards:
                then()
        except BackendError:
            raise
        except Exception as error:  # pybind11 raises what C++ threw as RuntimeError or TypeError
            raise _failed(error)


class Rows(NamedTuple):
    """A value with a row for each image. whole, chosen: where it lies for all images and for chosen ones; nbytes: the
    bytes of a row."""

    whole: int
    chosen: int
    nbytes: int


class RowsCall:
    """A subgraph on some images: their rows are copied together, run, and copied back.

    key, weights, afterwards: see SubgraphCall; settings: by number of rows; before: called before rows are copied back.
    """

    def __init__(
        self,
        place: Place,
        key: Any,
        *,
        settings: Sequence[Setting],
        weights: Weights,
        inputs: Sequence[Rows],
        outputs: Sequence[Rows],
        before: Sequence[Callable[[], None]],
        afterwards: Sequence[Callable[[], None]],
    ) -> None:
        self._copy = place.cuda.copy
        self._stream = place.stream
        self._place = place
        self._key = key
        self._settings = settings
        self._weights = weights
        self._inputs = inputs
        self._outputs = outputs
        self._before = before
        self._afterwards = afterwards

    def __call__(self, rows: Array) -> None:
        runs = consecutive(rows.tolist())
        setting = self._settings[len(rows)]
        copy, stream = self._copy, self._stream
        try:
            runner = self._place.runners.by_key[self._key]
            for whole, chosen, nbytes in self._inputs:
                for start, at, length in runs:
                    copy(chosen + at * nbytes, whole + start * nbytes, length * nbytes, stream)
            if runner.placement is not setting.placement or runner.domain is not setting.domain:
                runner.settle(setting)
            else:
                runner.reshape(setting.shapes)
            runner.run_once(self._place.address)
            for first in self._before:
                first()
            for whole, chosen, nbytes in self._outputs:
                for start, at, length in runs:
                    copy(whole + start * nbytes, chosen + at * nbytes, length * nbytes, stream)
            for then in self._afterwards:
                then()
        except BackendError:
            raise
        except Exception as error:  # see SubgraphCall
            raise _failed(error)


class Run(NamedTuple):
    """Rows that follow each other. start: the first of them; at: its place among the chosen; length: how many."""

    start: int
    at: int
    length: int


def consecutive(rows: Sequence[int]) -> List[Run]:
    """Ascending row numbers as runs of rows that follow each other."""
    runs: List[Run] = []
    begun = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1:
            runs.append(Run(rows[begun], begun, at - begun))
            begun = at
    return runs


def _failed(error: Exception) -> BackendError:
    """What a library raised, as the error that this room raises."""
    return BackendError("TensorRT failed: %s" % first_line(error))
