"""What a run of `learn` holds at most, found by a short one in a process of its own."""

import json
from typing import List, Optional

from ..bundle.bundle import Bundle
from ..errors import Da3Error
from ..system.malloc import keep_little
from ..system.memory import peak_bytes
from ..training.short_run import ShortRun
from .apart import done_apart
from .on_cpu import CpuRunning
from .trainee import GraphTrainee

ON_THE_CPU = ("onnxruntime", "reference")  # the backends whose memory is the process's


def measured_peak(short: ShortRun, bundle: str, backend: str, threads: Optional[int]) -> int:
    """The most bytes that the process holds which goes the short run on a bundle. backend: one of
    ON_THE_CPU. Raises BackendError where it fails."""
    request = {"short": short.to_json(), "bundle": bundle, "backend": backend, "threads": threads}
    return int(done_apart(__name__, [json.dumps(request)], "a short run"))


def main(words: List[str]) -> int:
    """What the other process does; its exit status."""
    request = json.loads(words[0])
    keep_little()
    try:
        short = ShortRun.from_json(request["short"])
        with Bundle(request["bundle"]) as bundle:
            running = CpuRunning(
                request["backend"], request["threads"], apart=True, photos=short.config.memory.micro_batch
            )
            trainee = GraphTrainee(bundle, short.config, running)
            try:
                short.go(trainee, bundle.manifest.preprocessing)
            finally:
                trainee.close()
    except (Da3Error, OSError, MemoryError) as error:
        print(str(error) or type(error).__name__)
        return 1
    print(peak_bytes())
    return 0
