"""A subgraph bound to an execution context's memory, ready to be called: on every image, or on some rows."""

from typing import Callable, List, NamedTuple, Sequence

from ..cuda.messages import first_line
from ..errors import BackendError
from ..records import Array
from .engine_runner import EngineRunner, Setting
from .weights import Weights


class SubgraphCall:
    """A subgraph on every image of the execution context. weights: held, so that their memory lives as long as the
    call; afterwards: called when the subgraph was started."""

    def __init__(
        self, runner: EngineRunner, setting: Setting, weights: Weights, afterwards: Sequence[Callable[[], None]]
    ) -> None:
        self._launch = runner.cuda.launch
        self._stream = runner.stream
        self._runner = runner
        self._setting = setting
        self._placement = setting.placement
        self._domain = setting.domain
        self._weights = weights
        self._afterwards = afterwards

    def __call__(self) -> None:
        runner = self._runner
        try:
            if runner.placement is not self._placement or runner.domain is not self._domain:
                runner.settle(self._setting)
                runner.run()
            elif runner.graph is not None:
                self._launch(runner.graph, self._stream)
            else:
                runner.run()
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

    settings: by number of rows; before: called before rows are copied back; weights, afterwards: see SubgraphCall.
    """

    def __init__(
        self,
        runner: EngineRunner,
        *,
        settings: Sequence[Setting],
        weights: Weights,
        inputs: Sequence[Rows],
        outputs: Sequence[Rows],
        before: Sequence[Callable[[], None]],
        afterwards: Sequence[Callable[[], None]],
    ) -> None:
        self._copy = runner.cuda.copy
        self._stream = runner.stream
        self._runner = runner
        self._settings = settings
        self._weights = weights
        self._inputs = inputs
        self._outputs = outputs
        self._before = before
        self._afterwards = afterwards

    def __call__(self, rows: Array) -> None:
        runs = consecutive(rows.tolist())
        setting = self._settings[len(rows)]
        runner, copy, stream = self._runner, self._copy, self._stream
        try:
            for whole, chosen, nbytes in self._inputs:
                for start, at, length in runs:
                    copy(chosen + at * nbytes, whole + start * nbytes, length * nbytes, stream)
            if runner.placement is not setting.placement or runner.domain is not setting.domain:
                runner.settle(setting)
            else:
                runner.reshape(setting.shapes)
            runner.run()
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
