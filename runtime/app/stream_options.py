"""The options of `run-engine` that belong to streams, and those that do not."""

import argparse
from typing import Any, Callable, Dict, List

from ..errors import StreamError
from ..streams.address import is_stream

_OF_STREAMS = ("smooth", "every", "realtime", "reconnect", "frames", "show", "save", "jsonl")
# Of photos alone: what to do instead.
_INSTEAD = {
    "json": "use --jsonl -",
    "save_json": "use --jsonl FILE",
    "save_csv": "use --jsonl FILE",
    "save_pictures": "use --save VIDEO.mp4",
    "batch_size": "frames are answered one by one, as they come",
    "repeat": "frames are answered once, as they come",
    "warmup": "the engine is warm before the first frame",
}
_DEFAULTS: Dict[str, Any] = {"smooth": 1, "every": 1, "reconnect": 10, "batch_size": 1}


def add_stream_options(add: Callable[..., Any], at_least: Callable[[int], Callable[[str], int]]) -> None:
    """Declare them, with a parser's (or its group's) `add_argument`. at_least: makes a type of integers."""
    add("--smooth", type=at_least(1), default=1, metavar="N", help="average the probabilities of N frames (default: 1)")
    add("--every", type=at_least(1), default=1, metavar="N", help="answer each N-th frame only (default: 1)")
    add("--frames", type=at_least(1), metavar="N", help="stop after N answers (default: at the end, or Ctrl-C)")
    add("--realtime", action="store_true", help="play a video at its own pace, as a camera would")
    add(
        "--reconnect",
        type=at_least(0),
        default=10,
        metavar="TRIES",
        help="how often to try to open a stream again that dropped (default: 10)",
    )
    add("--jsonl", metavar="FILE", help="append a JSON object for each answer; - is stdout, and nothing else there")
    add("--save", metavar="VIDEO", help="write a video (.mp4, .mkv, .avi) with the answers on it")
    add("--show", action="store_true", help="show that video in a window")


def stream_asked(options: argparse.Namespace) -> bool:
    """Is a stream to be answered, rather than photos? Raises StreamError for what does not go together."""
    streams: List[str] = [word for word in options.images if is_stream(word)]
    if not streams:
        for name in _OF_STREAMS:
            if _given(options, name):
                raise StreamError(
                    "%s is for a camera or a video, and none is named: /dev/video0, csi://0, rtsp://..., video.mp4"
                    % _option(name)
                )
        return False
    if len(options.images) > 1:
        raise StreamError(
            "one stream at a time, and nothing beside it: start one program for each (%s)"
            % ", ".join(options.images[:5])
        )
    for name, instead in _INSTEAD.items():
        if _given(options, name):
            raise StreamError("%s is for photos, and %s is a stream: %s" % (_option(name), streams[0], instead))
    return True


def _given(options: argparse.Namespace, name: str) -> bool:
    value = getattr(options, name)
    return value is not None and value is not False and value != _DEFAULTS.get(name)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
