"""Stage: what a picture takes, in every way in which it can be run, and what is done for it outside the engine.

The figures are noted; whether they are good is said beside the whole network as one engine, see stage_whole.py.
"""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.plan import IMAGE
from ..engine import Runtime
from ..errors import Da3Error
from ..records import Array, Domain
from ..schedule.layout import join_plan
from ..system.percentiles import percentiles_ms
from .findings import PASS, SKIP, Teller
from .machine import sensors
from .options import SelftestOptions
from .pictures import golden_pictures, network_images
from .subjects import BACKBONE, read_subject, subject_names, title_of

ALL_ON = "all blocks"
_RUNS, _SECONDS = (50, 20), (20.0, 5.0)  # of a measurement; quick
_PHOTO = (3000, 4000)  # a photo of 12 megapixels, which takes seconds in numpy
_PHOTO_RUNS = 3


class Budget(NamedTuple):
    """How often something is run, and the seconds after which it is run no more; warm: how often before that."""

    runs: int
    seconds: float
    warm: int = 5


def budget_of(options: SelftestOptions) -> Budget:
    return Budget(_RUNS[options.quick], _SECONDS[options.quick])


def timed(run: Callable[[], Any], budget: Budget) -> Dict[str, float]:
    """{"p50", "p90", "p99"} in milliseconds, "runs": how many there were."""
    started = time.perf_counter()
    for _ in range(budget.warm):
        run()
        if time.perf_counter() - started > budget.seconds:
            break
    seconds: List[float] = []
    started = time.perf_counter()
    while not seconds or (len(seconds) < budget.runs and time.perf_counter() - started < budget.seconds):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return dict(percentiles_ms(seconds), runs=len(seconds))


def check_timing(options: SelftestOptions, tell: Teller) -> None:
    """Tells one finding for each way, and notes the board's clocks and temperatures before and after."""
    tell.note("sensors before", sensors())
    budget = budget_of(options)
    with Runtime(options.bundle, **options.runtime_words()) as runtime:
        image = network_images(golden_pictures()[:1], runtime.preprocessing)
        for name in subject_names(runtime.bundle, quick=True):
            try:
                domain = runtime.load(read_subject(runtime.bundle, name).domain)
                _time_subject(tell, runtime, title_of(name), domain, image, budget)
            except Da3Error as error:
                tell.check(False, title_of(name), str(error))
        photo = np.tile(golden_pictures()[0], (_PHOTO[0] // 32 + 1, _PHOTO[1] // 32, 1))[: _PHOTO[0]]
        few = Budget(_PHOTO_RUNS, budget.seconds, warm=1)
        small = runtime.preprocessing.resize_and_crop(photo)[None]
        _say(tell, "resizing a photo of 12 MP", lambda: runtime.preprocessing.resize_and_crop(photo), few)
        _say(tell, "normalising a picture", lambda: runtime.preprocessing.normalise(small), budget)
    _time_upload(tell, options, image, budget)
    tell.note("sensors after", sensors())


def _time_subject(tell: Teller, runtime: Runtime, name: str, domain: Domain, image: Array, budget: Budget) -> None:
    manifest = runtime.bundle.manifest
    exits = len(domain.exits)
    closable = [i for i, block in enumerate(manifest.blocks) if block.skip_flops is not None]
    _say(
        tell,
        "%s, %s" % (name, ALL_ON),
        lambda: runtime.run_batch(image, domain.name, force_all_blocks=True),
        budget,
        ALL_ON if name == BACKBONE else None,
    )
    _say(tell, "%s, as the domain has it" % name, lambda: runtime.run_batch(image, domain.name), budget)
    half = "%s, half skipped" % name
    if exits:
        middle = exits // 2
        half = "%s, left at exit %d of %d" % (name, middle, exits)
        _say(tell, half, lambda: runtime.run_batch(image, domain.name, leave_at=middle), budget)
    elif closable:
        gates = dict.fromkeys(closable[::2], False)
        try:
            _say(tell, half, lambda: runtime.run_batch(image, domain.name, gates=gates), budget)
        except Da3Error as error:  # engines are built for what domains close, and for nothing else
            tell.find(SKIP, half, str(error))
    else:
        tell.find(SKIP, half, "no block can be skipped")


def _time_upload(tell: Teller, options: SelftestOptions, image: Array, budget: Budget) -> None:
    """Handing a picture to an execution context and reading it back, with nothing run in between; read back, since a
    device may still be copying when the first has returned."""
    with Bundle(options.bundle) as bundle:
        backend = options.new_backend(bundle)
        backend.open(join_plan(bundle.manifest, backend.looks_ahead)._replace(lasting=False), bundle)
        try:
            context = backend.context(1)
            try:

                def upload() -> None:
                    context.begin(image)
                    try:
                        context.read(IMAGE)
                    finally:
                        context.end()

                _say(tell, "handing a picture over and back", upload, budget)
            finally:
                context.close()
        finally:
            backend.close()


def _say(tell: Teller, name: str, run: Callable[[], Any], budget: Budget, key: Optional[str] = None) -> None:
    """Time it and tell. key: by which another stage finds the figures."""
    tell.begin("timing: %s" % name)
    figures: Dict[str, Any] = dict(timed(run, budget))
    text = "p50 %.3f ms, p90 %.3f ms (%d runs)" % (figures["p50"], figures["p90"], figures["runs"])
    tell.find(PASS, name, text, figures if key is None else dict(figures, key=key))
