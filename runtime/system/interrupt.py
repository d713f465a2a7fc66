"""Ctrl-C and SIGTERM as a question that long work asks between steps: should I stop?"""

import signal
from contextlib import contextmanager
from typing import Callable, Iterator


@contextmanager
def stop_on_interrupt(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C (or SIGTERM) only makes the yielded function return True.

    `say` is told so; a second one raises KeyboardInterrupt.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("stopping after this step, to save; Ctrl-C again to stop at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
