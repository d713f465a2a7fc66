"""What is rounded where a bundle computes in INT8: histograms of magnitudes, measured on photos with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from da3.calib.errors import CalibrationError
from da3.runtime import Domain
from da3.runtime.backends import open_session
from da3.runtime.bundle import Bundle
from da3.runtime.onnx_graph import Info, Magnitudes, convolved, read_segment, summed, write_model
from da3.runtime.records import Step
from da3.runtime.schedule.walk import inputs_of, walk

BINS = 4096

Array = NDArray[Any]
Watch = Callable[[str, str, Array], None]  # (file of a segment, value in it, what it is)


class Histogram:
    """How often magnitudes occur. Its range doubles when something larger comes."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.top = 0.0  # where the last bin ends
        self.largest = 0.0

    def add(self, values: Array) -> None:
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise CalibrationError("the network gives numbers that are not finite: export it again")
        self.largest = max(self.largest, largest)
        if self.top == 0.0:
            self.top = largest
        if self.top == 0.0:
            return
        while largest > self.top:
            self.counts = np.append(self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64))
            self.top *= 2
        bins = (magnitudes * np.float32(BINS / self.top)).astype(np.int32)
        self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def percentile(self, percent: float) -> float:
        """A magnitude that no more than the other percents exceed; 0 where all were 0."""
        total = self.counts.cumsum()
        last = int(np.searchsorted(total, total[-1] * percent / 100))
        return min((last + 1) * self.top / BINS, self.largest)


class _Session(NamedTuple):
    """One file of the bundle, open. taps: names of the values that are shown."""

    session: Any
    taps: list[str]


class Watched:
    """A bundle's plan, run as float32 and image by image, that shows what INT8 may round.

    depthwise: what the convolutions of the backbone read, (file, value) -> do depthwise convolutions alone read it?
    others: (file, value) of what sums and averages need, see `da3.runtime.onnx_graph.summed`.
    """

    def __init__(self, bundle: Bundle):
        self._manifest = bundle.manifest
        self._sessions: dict[str, _Session] = {}
        self.depthwise: dict[tuple[str, str], bool] = {}
        self.others: set[tuple[str, str]] = set()
        segments = {segment.file: segment for segment in bundle.manifest.segments.values()}
        for file, segment in sorted(segments.items()):
            model = read_segment(segment, bundle)
            found = convolved(model) if file.startswith("backbone/") else {}
            self.depthwise.update(((file, name), depthwise) for name, depthwise in found.items())
            others = summed(model)
            self.others.update((file, name) for name in others)
            taps = sorted(others.union(found))
            known = {info.name for info in model.inputs + model.outputs}
            model.outputs += [Info(name, np.dtype(np.float32), (None,) * 4) for name in taps if name not in known]
            self._sessions[file] = _Session(open_session(write_model(model)), taps)

    def run(self, domain: Domain, image: Array, watch: Watch, all_blocks: bool = False) -> bool:
        """Show ``watch`` what may be rounded for one image, float32 (1, 3, S, S). False: a block was skipped.

        What enters a gated block is shown for what skips it too, and the other way round: both get the same scale.
        ``all_blocks``: whatever the gates say.
        """
        overrides = dict.fromkeys(range(len(self._manifest.blocks)), True) if all_blocks else {}
        complete = True
        for visit in walk(self._manifest, domain, image, partial(self._run_step, watch), overrides):
            if visit.step.skip is not None:
                ran = bool(visit.ran[0])
                complete = complete and ran
                idle = visit.step.skipped if ran else visit.step
                self._show_inputs(watch, idle, inputs_of(idle, visit.read, domain))
        return complete

    def _run_step(self, watch: Watch, step: Step, inputs: list[Array]) -> list[Array]:
        segment = self._manifest.segments[step.segment]
        session, taps = self._sessions[segment.file]
        given = {value.name: array for value, array in zip(segment.inputs, inputs, strict=True)}
        outputs = [value.name for value in segment.outputs]
        wanted = outputs + [tap for tap in taps if tap not in given and tap not in outputs]
        given.update(zip(wanted, session.run(wanted, given), strict=True))
        for tap in taps:
            watch(segment.file, tap, given[tap])
        return [given[name] for name in outputs]

    def _show_inputs(self, watch: Watch, step: Step, inputs: list[Array]) -> None:
        segment = self._manifest.segments[step.segment]
        for value, array in zip(segment.inputs, inputs, strict=True):
            if value.name in self._sessions[segment.file].taps:
                watch(segment.file, value.name, array)


def ranges_of(histograms: dict[tuple[str, str], Histogram], percent: float) -> Magnitudes:
    """The magnitudes to be 127; values that were always 0 are left out, and so not quantised."""
    ranges: Magnitudes = {}
    for (file, name), histogram in sorted(histograms.items()):
        largest = float(f"{histogram.percentile(percent):.6g}")
        if largest > 0:
            ranges.setdefault(file, {})[name] = largest
    return ranges
