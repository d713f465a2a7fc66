"""`run-engine` on a camera or a video: every answer is said, written, drawn and shown as it is wanted."""

import argparse
import json
import sys
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Optional, TextIO

from ..bundle.familiar import check_can_tell
from ..errors import Da3Error, printable
from ..streams.address import parse_address
from ..streams.reading import FPS, FrameReader
from ..streams.recording import Recorder, check_name
from ..streams.showing import Window
from ..streams.watching import Seen, Watcher
from ..system.interrupt import stop_on_interrupt
from .annotate import SURE, annotated
from .opening import Opening
from .printing import say
from .saving import check_writable
from .stream_status import Status, summary
from .stream_unsure import UnsureFrames

_ASKED_EVERY = 0.2  # seconds: so soon Ctrl-C is noticed, and a window answered, while no frame comes


def stream_and_say(options: argparse.Namespace) -> int:
    """Answer a stream until it ends, somebody stops it, or there were enough frames. Returns the exit code, 0."""
    address = parse_address(options.images[0])
    opening = Opening.of(options)
    sinks: List[Callable[[Seen], bool]] = []
    status = Status(sys.stderr)
    say_last: Callable[[str], None] = _to_stderr if options.jsonl == "-" else say
    with ExitStack() as at_the_end:  # in reverse; what was seen is told, and kept, whatever ends it
        window = Window("da3") if options.show else None
        if window is not None:
            at_the_end.callback(window.close)
        if options.jsonl is not None:
            lines = JsonLines(options.jsonl, options.top_k)
            at_the_end.callback(lines.close)
            sinks.append(lines)
        if options.save is not None:
            check_writable(options.save, "--save")
            check_name(options.save)
        if options.unsure_below is not None or options.to is not None:
            unsure = UnsureFrames(options.unsure_below, options.to, address)
            at_the_end.callback(unsure.tell, say_last)
            sinks.append(unsure)
        runtime = at_the_end.enter_context(opening.runtime())
        stop = at_the_end.enter_context(stop_on_interrupt(status.stopping))
        used = opening.domain_in(runtime)
        if options.unknown_below is not None:
            check_can_tell(used, "--unknown-below")
        queued = not (address.live or options.realtime)
        reader = FrameReader(address, options.every, options.realtime, options.reconnect)
        at_the_end.callback(reader.close, lambda: status.note("waiting for %s to let go" % address.shown))
        watcher = Watcher(runtime, used.name, options.smooth, options.force_all_blocks, queued, options.unknown_below)
        at_the_end.callback(_tell, watcher, reader, say_last)
        if options.save is not None or window is not None:
            sure = SURE if options.unsure_below is None else options.unsure_below
            drawn = _Drawn(options.save, window, sure, lambda: (reader.fps or FPS) / options.every)
            at_the_end.callback(drawn.finish, say_last)
            sinks.append(drawn)
        at_the_end.callback(status.end)
        _watch(reader, watcher, sinks, window, status, stop, options.frames)
    return 0


class JsonLines:
    """A JSON object a line for each answer, appended to a file or written to stdout; each line at once."""

    def __init__(self, path: str, top_k: int) -> None:
        """Raises Da3Error where no file can be written; it is there with the first answer."""
        self._top_k = top_k
        self._path = path
        self._file: Optional[TextIO] = sys.stdout if path == "-" else None
        if self._file is None:
            check_writable(path, "--jsonl")

    def __call__(self, seen: Seen) -> bool:
        try:
            if self._file is None:
                self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  # open as long as the stream
            self._file.write(json.dumps(as_json(seen, self._top_k)) + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Da3Error("--jsonl: cannot write %s: %s" % (self._path, error.strerror or error))
        return True

    def close(self) -> None:
        if self._file is not None and self._file is not sys.stdout:
            self._file.close()


class _Drawn:
    """Puts each answer on its frame, once for video and window."""

    def __init__(self, path: Optional[str], window: Optional[Window], sure: float, fps: Callable[[], float]) -> None:
        """path: of the video. sure: see `annotated`. fps: what the video gets; asked when the first frame is there."""
        self._path, self._window, self._sure, self._fps = path, window, sure, fps
        self._recorder: Optional[Recorder] = None

    def __call__(self, seen: Seen) -> bool:
        """False where somebody closed the window."""
        frame = seen.frame
        picture = annotated(frame.image, seen.prediction, self._sure, blue_first=True)
        if self._path is not None:
            if self._recorder is None:
                self._recorder = Recorder(self._path, self._fps())
            self._recorder.add(picture, frame.seen if frame.position is None else frame.position, frame.scene)
        return self._window is None or self._window.show(picture)

    def finish(self, say_of_it: Callable[[str], None]) -> None:
        if self._recorder is not None and self._recorder.finish():
            say_of_it("wrote %s: %d frames" % (printable(self._recorder.path), self._recorder.written))


def as_json(seen: Seen, top_k: int = 1) -> Dict[str, Any]:
    """What `--jsonl` writes of an answer. Times of the day are seconds since 1970."""
    frame, p = seen.frame, seen.prediction
    row: Dict[str, Any] = {
        "time": round(frame.time, 3),
        "frame": frame.number,
        "label": p.label,
        "probability": p.probability,
        "blocks_run": p.blocks_run,
        "blocks_skipped": p.blocks_skipped,
        "exit": p.exit,
        "known": p.known,
        "familiarity": p.familiarity,
        "ms": round(1e3 * seen.latency_s, 2),
        "engine_ms": round(1e3 * seen.engine_s, 2),
    }
    if frame.position is not None:
        row["position"] = round(frame.position, 3)
    if top_k > 1:
        row["top_k"] = [{"label": label, "probability": share} for label, share in p.top_k(top_k)]
    return row


def _watch(
    reader: FrameReader,
    watcher: Watcher,
    sinks: List[Callable[[Seen], bool]],
    window: Optional[Window],
    status: Status,
    stop: Callable[[], bool],
    most: Optional[int],
) -> None:
    while not stop() and not reader.ended and watcher.figures.frames != most:
        try:
            frame = reader.next(_ASKED_EVERY)
        finally:
            for text in reader.news():
                status.note(text)
        if frame is None:
            if window is not None and not window.alive():
                return
            continue
        seen = watcher(frame)
        wanted = [sink(seen) for sink in sinks]
        if not all(wanted):
            return
        status.show(seen, watcher.figures, reader)


def _tell(watcher: Watcher, reader: FrameReader, say_of_it: Callable[[str], None]) -> None:
    if watcher.figures.frames:
        say_of_it(summary(watcher.figures, reader))


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
