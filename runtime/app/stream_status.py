"""What is said while a stream is answered, and at its end."""

import shutil
import time
from typing import List, TextIO

from ..errors import printable
from ..streams.reading import FrameReader
from ..streams.watching import Figures, Seen

_REDRAWN_EVERY_S = 0.2
_LINE_EVERY_S = 10.0  # where nothing can be redrawn: in a log
_MOST_LABELS = 5


class Status:
    """A line on stderr about the last answer: one that changes on a terminal, a new one every ten seconds elsewhere."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._live = err.isatty()
        self._every = _REDRAWN_EVERY_S if self._live else _LINE_EVERY_S
        self._then = time.monotonic()
        self._frames = 0
        self._drawn = False

    def show(self, seen: Seen, figures: Figures, reader: FrameReader) -> None:
        now = time.monotonic()
        if now - self._then < self._every:
            return
        rate = (figures.frames - self._frames) / (now - self._then)
        self._then, self._frames = now, figures.frames
        p = seen.prediction
        text = "frame %d: %s %.1f %%, %d of %d blocks, %.1f fps, %.1f ms (p99 %.1f)%s" % (
            seen.frame.number,
            printable(p.label) if p.known is not False else "unknown (closest: %s)" % printable(p.label),
            100 * p.probability,
            p.blocks_run,
            p.blocks_run + p.blocks_skipped,
            rate,
            1e3 * seen.latency_s,
            1e3 * figures.latency.percentile(99),
            ", %d dropped" % reader.dropped if reader.dropped else "",
        )
        if not self._live:
            self._err.write(time.strftime("%H:%M:%S ") + text + "\n")
        else:
            self._clear()
            self._err.write(text[: shutil.get_terminal_size().columns - 1])
            self._drawn = True
        self._err.flush()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._err.write(time.strftime("%H:%M:%S ") + printable(text) + "\n")
        self._err.flush()

    def stopping(self, _: str) -> None:
        """Somebody asked to stop: say how to stop at once."""
        self._clear()
        self._err.write("stopping; Ctrl-C again to stop at once\n")
        self._err.flush()

    def end(self) -> None:
        """Take the line off a terminal, so that what comes next stands alone."""
        self._clear()

    def _clear(self) -> None:
        if self._drawn:
            self._err.write("\r%s\r" % (" " * (shutil.get_terminal_size().columns - 1)))
            self._drawn = False


def summary(figures: Figures, reader: FrameReader) -> str:
    """The figures at the end, for people."""
    latency = figures.latency
    more: List[str] = []
    if reader.dropped:
        more.append("%d dropped for newer ones" % reader.dropped)
    if reader.damaged:
        more.append("%d not decoded" % reader.damaged)
    if reader.scene:
        more.append("opened again %d times" % reader.scene)
    engine, prepare = figures.engine_share, figures.prepare_share
    often = sorted(figures.labels.items(), key=lambda item: (-item[1], item[0]))
    others = figures.frames - sum(count for _, count in often[:_MOST_LABELS])
    names = ["%s %d" % (printable(label), count) for label, count in often[:_MOST_LABELS]]
    return "\n".join(
        [
            "%d frames of %s in %.1f s, %.1f a second%s"
            % (
                figures.frames,
                printable(reader.address.shown),
                figures.seconds,
                figures.fps,
                "; " + ", ".join(more) if more else "",
            ),
            "from a frame's coming to its answer: p50 %.2f ms, p99 %.2f ms; engine %.0f %%, preprocessing %.0f %%, "
            "waiting and the rest %.0f %%"
            % (
                1e3 * latency.percentile(50),
                1e3 * latency.percentile(99),
                100 * engine,
                100 * prepare,
                100 * max(0.0, 1 - engine - prepare),
            ),
            "block FLOPs skipped: %.1f %% on average" % (100 * (1 - figures.flops_share)),
            "answers: %s%s" % (", ".join(names), ", others %d" % others if others else ""),
        ]
    )
