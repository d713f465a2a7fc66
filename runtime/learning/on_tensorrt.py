"""Graphs run by TensorRT: an engine is built for each on this device, and kept beside those that predict.

One at a time is open, so that the backbone's weights are held once.
"""

import json
import os
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..bundle.bundle import Bundle
from ..bundle.plan import DOMAIN
from ..cuda.interface import Cuda
from ..cuda.opening import open_cuda
from ..errors import Da3Error
from ..records import Array, Path
from ..system.sizes import render_bytes
from ..trt.api import Library
from ..trt.fixed_engine import FixedEngine
from ..trt.graph_plans import build_plan, has_plan, plan_path, read_graph_plan
from ..trt.store import Device, engines_folder
from .apart import done_apart
from .engine_graph import engine_graph
from .making import STEP, TITLES, derive
from .runner import GraphRunner
from .running import FULL, HALF, Running

FOLDER = "learning"  # in the bundle's folder of engines
USUAL_SLICE = 4  # with one photo a slice, starting a step's thousand small kernels takes about as long as they do
LOSS_SCALE = 1024.0  # of a step in float16: most gradients are far below 1, and less than 6e-8 is 0 there

_Open = Tuple[Cuda, Library]
_Wanted = Tuple[str, int, Tuple[int, ...]]  # kind, classes, closed blocks


class TensorRTRunner(GraphRunner):
    """One engine."""

    def __init__(self, engine: FixedEngine) -> None:
        self._engine = engine

    def keep(self, feeds: Dict[str, Array]) -> None:
        self._engine.keep(feeds)

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


class TensorRTRunning(Running):
    """See the module."""

    def __init__(
        self,
        precision: str = FULL,
        photos: int = 0,
        apart: bool = False,
        building: Callable[[str, float, bool], None] = lambda what, seconds, done: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """precision: of the step; all other graphs are float32. photos: that engines run at once, 0 takes USUAL_SLICE.
        apart: engines are built in a process of their own. building: is told what is built, for how many seconds by
        now, and whether it is done. note: is told what a step takes of the GPU's memory."""
        self.usual_slice = photos or USUAL_SLICE
        self.loss_scale = LOSS_SCALE if precision == HALF else 1.0
        self._precision, self._apart = precision, apart
        self._building, self._note = building, note
        self._opened: Optional[_Open] = None
        self._plans: Dict[_Wanted, str] = {}
        self._most = 0
        self._told = False

    def open(self, kind: str, bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> GraphRunner:
        path = self._plan(kind, bundle, classes, closed)
        cuda, library = self._library()
        plan = read_graph_plan(path)
        kept = [end.name for end in plan.inputs if end.name.startswith(DOMAIN)]
        with cuda.current():
            free = cuda.available()
        engine = FixedEngine(cuda, library, plan, TITLES[kind], kept)
        if kind == STEP and not self._told:
            self._told = True
            facts = (self.usual_slice, render_bytes(engine.device_bytes), render_bytes(free))
            self._note("%d photos at once take %s of the GPU's memory, of which %s were free" % facts)
        self._most = max(self._most, engine.device_bytes)
        return TensorRTRunner(engine)

    def make(self, kinds: Sequence[str], bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> None:
        for kind in kinds:
            self._plan(kind, bundle, classes, closed)

    @property
    def device_bytes(self) -> int:
        return self._most

    def _plan(self, kind: str, bundle: Bundle, classes: int, closed: Tuple[int, ...]) -> str:
        """The path of a graph's plan, which is there."""
        wanted = (kind, classes, closed)
        path = self._plans.get(wanted)
        if path is None or not os.path.exists(path):
            path = self._plans[wanted] = self._made(wanted, bundle)
        return path

    def _made(self, wanted: _Wanted, bundle: Bundle) -> str:
        title = TITLES[wanted[0]]
        precision = self._precision if wanted[0] == STEP else FULL
        words = _words(wanted, bundle.path, precision, self.usual_slice)
        if not self._apart:
            cuda, library = self._library()

            def begin() -> None:
                self._building(title, 0.0, False)

            made = make_plan(words, cuda, library, begin)
        else:
            said = done_apart(__name__, words, "the engine for %s" % title, lambda s: self._building(title, s, False))
            made = MadePlan(*json.loads(said))
        if made.seconds is not None:
            self._building(title, made.seconds, True)
        return made.path

    def _library(self) -> _Open:
        if self._opened is None:
            self._opened = open_tensorrt()
        return self._opened

    def close(self) -> None:
        self._opened = None


def open_tensorrt() -> _Open:
    """The GPU and TensorRT. Raises BackendError where either is not to be had."""
    cuda = open_cuda()  # before TensorRT is asked for anything, see trt/api.py
    return cuda, Library()


def check_tensorrt() -> None:
    """Raise BackendError where TensorRT or a GPU for it is not to be had."""
    open_tensorrt()


class MadePlan(NamedTuple):
    """Where a plan lies, and the seconds that building it took; None where it was there."""

    path: str
    seconds: Optional[float]


def make_plan(words: List[str], cuda: Cuda, library: Library, begin: Callable[[], None]) -> MadePlan:
    """Find the plan of a graph, or build it.

    words: see `_words`. begin: called before something is built. Raises BundleError or BackendError.
    """
    kind, path, precision, photos, classes, closed = words
    with Bundle(path) as bundle:
        model = derive(kind, bundle, int(classes), [int(number) for number in closed.split(",") if number])
        folder = os.path.join(engines_folder(bundle), FOLDER)
    graph = engine_graph(model, kind, TITLES[kind], int(photos), precision == HALF, library.typed)
    del model
    plan = plan_path(folder, graph, Device(library.version, cuda.gpu.name, cuda.gpu.sm))
    if has_plan(plan):
        return MadePlan(plan, None)
    begin()
    begun = time.time()
    build_plan(plan, graph, cuda, library)
    return MadePlan(plan, time.time() - begun)


def _words(wanted: _Wanted, bundle: Path, precision: str, photos: int) -> List[str]:
    """What `main` takes."""
    kind, classes, closed = wanted
    return [kind, os.fspath(bundle), precision, str(photos), str(classes), ",".join(map(str, sorted(closed)))]


def main(words: List[str]) -> int:
    """What the other process does; its exit status."""
    try:
        cuda, library = open_tensorrt()
        print(json.dumps(make_plan(words, cuda, library, lambda: None)))
    except (Da3Error, OSError, MemoryError) as error:
        print(str(error) or type(error).__name__)
        return 1
    return 0
