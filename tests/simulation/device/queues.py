"""Streams, events and captured graphs, run as late as their rules allow.

Nothing that is submitted happens before the host waits for it. Waiting for an event runs the work before its record
and what that work waits for, nothing else: work elsewhere, or later on the same stream, has not happened yet. So a
program that reads too early reads old data or NaN here, every time.

Order is tracked with vector clocks: `clock[stream]` is the number of that stream's work that is known to come before.
Two accesses to the same bytes, one of them a write, that no clock puts in order are a race, found when the second is
submitted. See the CUDA C programming guide, "Asynchronous Concurrent Execution", and the driver API's pages on stream
behaviour, event management and stream capture.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any, NamedTuple

from .memory import Fault


class Access(NamedTuple):
    allocation: Any
    start: int
    end: int
    written: bool


class Work(NamedTuple):
    """One thing that a stream does. begin: what happens on the host as soon as it is launched."""

    name: str
    run: Callable
    accesses: tuple = ()
    begin: Callable = lambda: None


class Entry(NamedTuple):
    work: Any  # None where the stream only waits
    after: tuple  # (stream, number) that must be done first


class Stream:
    def __init__(self, handle, context, blocking=True, where=""):
        self.handle, self.context, self.blocking, self.where = handle, context, blocking, where
        self.entries: deque[Entry] = deque()
        self.count = 0  # submitted
        self.done = 0
        self.clock = {}
        self.capture = None

    def push(self, work, after=()):
        self.count += 1
        self.clock[self] = self.count
        self.entries.append(Entry(work, tuple(after)))

    def __repr__(self):
        return f"stream {self.handle:#x}"


class Mark(NamedTuple):
    """Where on the time line an event was recorded."""

    stream: Any
    number: int
    clock: dict


class Event:
    def __init__(self, handle, context):
        self.handle, self.context = handle, context
        self.mark: Mark | None = None  # of the last record
        self.captured: Any = None  # (graph, stream) where it was recorded in a capture


class Graph:
    """What a capture collects: the work of every stream that joined it, in the order of the calls.

    everywhere: the capture mode is "global", in which no thread may make a call that could wait or allocate.
    """

    def __init__(self, origin, everywhere=True):
        self.origin = origin
        self.everywhere = everywhere
        self.thread = get_ident()
        self.works = []
        self.joined = {origin}
        self.open = {}  # forked stream -> it has work that the origin has not waited for
        self.broken = ""


class Timeline:
    """All streams of a device, and what the host knows to be done."""

    def __init__(self, store, report):
        self.store = store
        self.report = report
        self.known = {}
        self.default = Stream(0, None)
        self.streams = {0: self.default}
        self.waits = []  # of the host: (what, name)
        self.fault: Any = None
        self.clock: Any = None  # see clock.py

    # -- submitting

    def submit(self, stream, work):
        """Queue work on a stream, or add it to the graph that the stream is captured into."""
        if stream.capture is not None:
            stream.capture.works.append(work)
            if stream in stream.capture.open:
                stream.capture.open[stream] = True
            return
        self.launch(stream, [work])

    def launch(self, stream, works):
        after = self._implicit(stream)
        _join(stream.clock, self.known)
        if after:
            stream.push(None, after)
        for work in works:
            stream.push(work)
            for access in work.accesses:
                self._check_race(stream, access, work.name)
                self.store.spoil(access, self.queued()[:-1])
            work.begin()
        if self.clock is not None:
            self.clock.launched(stream, works)

    def _implicit(self, stream):
        """The default stream waits for all blocking ones, and they for it."""
        if stream is self.default:
            others = [s for s in self.streams.values() if s.blocking and s is not stream]
        elif stream.blocking:
            others = [self.default]
        else:
            others = []
        if any(other.capture is not None for other in others):
            raise Fault("STREAM_CAPTURE_IMPLICIT", "the default stream would wait for a stream that is being captured")
        for other in others:
            _join(stream.clock, other.clock)
        return [(other, other.count) for other in others if other.count > other.done]

    def _check_race(self, stream, access, name):
        touched = access.allocation.touched
        for (start, end, other, written), number in list(touched.items()):
            if self.known.get(other, 0) >= number:
                del touched[start, end, other, written]
            elif (
                other is not stream
                and (written or access.written)
                and start < access.end
                and access.start < end
                and stream.clock.get(other, 0) < number
            ):
                self.report(
                    f"race: {name} on {stream} {'writes' if access.written else 'reads'} bytes {access.start} to "
                    f"{access.end} of {access.allocation} that {other} {'writes' if written else 'reads'}, and nothing "
                    "puts them in order: an event recorded there and waited for here would"
                )
        touched[access.start, access.end, stream, access.written] = stream.count

    # -- events

    def record(self, event, stream):
        if stream.capture is not None:
            event.captured, event.mark = (stream.capture, stream), None
            return
        after = self._implicit(stream) if stream is self.default else ()
        stream.push(None, after)
        event.captured, event.mark = None, Mark(stream, stream.count, dict(stream.clock))
        if self.clock is not None:
            self.clock.recorded(stream)

    def stream_waits(self, stream, event):
        """An event that was never recorded is waited for by nobody."""
        if event.captured is not None:
            graph, source = event.captured
            if stream.capture is None:
                graph.joined.add(stream)
                graph.open[stream] = False
                stream.capture = graph
            elif stream.capture is not graph:
                raise Fault("STREAM_CAPTURE_MERGE", "the event belongs to another capture")
            elif source in graph.open:
                graph.open[source] = False
            return
        if event.mark is None:
            return
        if stream.capture is not None:
            raise Fault("STREAM_CAPTURE_ISOLATION", "a captured stream waits for an event from outside")
        other, number, clock = event.mark
        _join(stream.clock, clock)
        stream.push(None, [(other, number)])
        if self.clock is not None:
            self.clock.ordered(stream, other, number)

    # -- waiting

    def advance(self, stream, number):
        """Run the stream's work up to that number."""
        while stream.done < number:
            work, after = stream.entries.popleft()
            stream.done += 1
            for other, wanted in after:
                self.advance(other, wanted)
            if work is not None and self.fault is None:
                try:
                    self._check_alive(work)
                    work.run()
                except Fault as fault:
                    self.fault = Fault("ILLEGAL_ADDRESS", f"{work.name}: {fault}")
                    self.report(f"{work.name} on {stream} failed when it ran: {fault}")

    def _check_alive(self, work):
        for access in work.accesses:
            if not self.store.is_alive(access.allocation):
                raise Fault("INVALID_VALUE", f"used after it was freed: {access.allocation}")

    def host_waits(self, mark, what):
        stream, number, clock = mark
        self.waits.append(what)
        self.advance(stream, number)
        if self.clock is not None:
            self.clock.waited(stream, number)
        _join(self.known, clock)
        self.known[stream] = max(self.known.get(stream, 0), number)
        if self.fault is not None:
            raise self.fault

    def wait_event(self, event, what="event"):
        if event.captured is not None:
            raise Fault("CAPTURED_EVENT", "the event was recorded in a capture")
        if event.mark is not None:
            self.host_waits(event.mark, what)

    def wait_stream(self, stream, what="stream"):
        if stream.capture is not None:
            stream.capture.broken = "the host waited for a stream that is being captured"
            raise Fault("STREAM_CAPTURE_UNSUPPORTED", stream.capture.broken)
        after = self._implicit(stream) if stream is self.default else ()
        for other, number in after:
            self.advance(other, number)
        self.host_waits(Mark(stream, stream.count, stream.clock), what)

    def wait_all(self, what="context"):
        for stream in self.streams.values():
            if stream.capture is not None:
                stream.capture.broken = "the host waited for the device during a capture"
                raise Fault("STREAM_CAPTURE_UNSUPPORTED", stream.capture.broken)
        self.waits.append(what)
        for stream in list(self.streams.values()):
            self.advance(stream, stream.count)
            self.known[stream] = stream.count
        if self.fault is not None:
            raise self.fault

    def has_happened(self, event):
        """An event that was never recorded counts as happened."""
        return event.mark is None or event.mark.stream.done >= event.mark.number

    def queued(self):
        """All work that has not run yet."""
        return [e.work for stream in self.streams.values() for e in stream.entries if e.work is not None]

    # -- graphs

    def begin_capture(self, stream, everywhere):
        if stream is self.default or stream.capture is not None:
            raise Fault("STREAM_CAPTURE_UNSUPPORTED" if stream is self.default else "ILLEGAL_STATE", repr(stream))
        stream.capture = Graph(stream, everywhere)

    def forbid_in_capture(self, call):
        """A call that may wait or allocate spoils every capture that forbids it to this thread."""
        for graph in {stream.capture for stream in self.streams.values() if stream.capture is not None}:
            if graph.everywhere or graph.thread == get_ident():
                graph.broken = f"{call} during the capture"
                raise Fault("STREAM_CAPTURE_UNSUPPORTED", graph.broken)

    def end_capture(self, stream):
        graph = stream.capture
        if graph is None:
            raise Fault("ILLEGAL_STATE", f"{stream} is not being captured")
        if graph.origin is not stream:
            raise Fault("STREAM_CAPTURE_UNMATCHED", "the capture began on another stream")
        for joined in graph.joined:
            joined.capture = None
        if graph.broken:
            raise Fault("STREAM_CAPTURE_INVALIDATED", graph.broken)
        if any(graph.open.values()):
            raise Fault("STREAM_CAPTURE_UNJOINED", "a forked stream was not waited for")
        return graph

    def drop(self, stream):
        """A destroyed stream finishes its work by itself; it can no longer be waited for."""
        self.streams.pop(stream.handle, None)
        with suppress(Fault):
            self.advance(stream, stream.count)


def _join(clock, other):
    for stream, number in other.items():
        if clock.get(stream, 0) < number:
            clock[stream] = number
