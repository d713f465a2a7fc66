"""What `domains push` and `domains pull` do, and print."""

import argparse
import sys
from contextlib import contextmanager
from typing import Callable, Iterator

from ..registry import pull_domain, push_domain
from ..system.sizes import render_bytes
from .printing import say
from .progress import ProgressLine


def push_and_say(options: argparse.Namespace) -> None:
    with _progress("pushed") as progress:
        pushed = push_domain(options.bundle, options.name, options.reference, progress)
    sent = render_bytes(pushed.uploaded) if pushed.uploaded else "its pack was there already"
    say("pushed %s as %s (%s)" % (pushed.domain, pushed.pinned, sent))
    if pushed.replaced is not None:
        say("the tag stood for %s before" % pushed.replaced)


def pull_and_say(options: argparse.Namespace) -> None:
    with _progress("pulled") as progress:
        pulled = pull_domain(options.bundle, options.reference, options.replace, progress)
    if not pulled.added:
        say("%s is there already, as %s has it" % (pulled.domain, pulled.pinned))
    elif pulled.fetched == pulled.bytes:
        say("added %s from %s (%s)" % (pulled.domain, pulled.pinned, render_bytes(pulled.bytes)))
    else:
        sizes = (render_bytes(pulled.bytes), render_bytes(pulled.fetched))
        say("added %s from %s (%s, of which %s came now)" % ((pulled.domain, pulled.pinned) + sizes))


@contextmanager
def _progress(done: str) -> Iterator[Callable[[int, int], None]]:
    """Draws how many bytes are `done` ("pushed") of all."""
    line = ProgressLine(sys.stderr)
    try:
        yield lambda count, total: line.draw("%s %s of %s" % (done, render_bytes(count), render_bytes(total)))
    finally:
        line.end()
