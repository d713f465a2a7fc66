"""What a training step on the engine takes: ``python -m da3.toolchain.learning.step_process``, see ``Worker``.

It is asked what ``da3.toolchain.training.step_process`` is asked, and answers in the same words, without PyTorch.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np

from da3.runtime.bundle import Bundle
from da3.runtime.learning import CpuRunning, GraphTrainee
from da3.runtime.system import keep_little, peak_bytes, usable_cpus
from da3.runtime.training import DEFAULTS, AdaptorSpec, Batch, MemorySettings, RunConfig, recipe
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning.bundles import new_bundle
from da3.toolchain.learning.options import ENGINE
from da3.toolchain.process import Answer, Say, serve

PREPARED = 8  # images that are looked at before the first step
PROGRESS = 0.9  # of a training run, as the other engine's steps have it: blocks are closed before


def _work(request: Answer, say: Say) -> None:
    keep_little()
    with tempfile.TemporaryDirectory(prefix="da3-bench-") as runs:
        folder = new_bundle(Path(runs), request["backbone"], request["weights"], request["size"])
        base = peak_bytes()
        with Bundle(folder) as bundle:
            config = _config(request, AdaptorSpec.from_json(bundle.manifest.adaptor), bundle.manifest.backbone_sha256)
            running = CpuRunning(ENGINE, request["threads"], apart=True, photos=config.memory.micro_batch)
            trainee = GraphTrainee(bundle, config, running)
            try:
                say({"measured": _measured(trainee, request, base, say)})
            finally:
                trainee.close()


def _measured(trainee: GraphTrainee, request: Answer, base: int, say: Say) -> Answer:
    draw = np.random.default_rng(request["seed"])
    count, size, classes = request["batch"], request["size"], request["classes"]
    pixels = draw.integers(0, 256, (count, size, size, 3), np.uint8)
    batch = Batch(pixels, np.asarray(draw.integers(0, classes, count)), count)
    own = trainee.parameters
    _close(trainee, draw)
    few = trainee.micro_batch
    trainee.prepare(lambda: (pixels[i : i + few] for i in range(0, min(PREPARED, count), few)))
    seconds = []
    for step in range(1 + request["steps"]):
        start = time.perf_counter()
        result = trainee.gradients(batch, PROGRESS, step)
        trainee.update(recipe.LEARNING_RATE)
        seconds.append(time.perf_counter() - start)
        if not math.isfinite(result.loss):
            raise TrainingError(f"the loss became {result.loss}: these weights do not train")
        say({"step": step})
    return {
        "kept_bytes_per_image": None,  # the library's allocator does not tell
        "base_bytes": base,
        "peak_growth_bytes": peak_bytes() - base,
        "seconds": seconds[1:],
        "trainable_parameters": own.count(),
        "domain_bytes": 2 * sum(array.size for array in own.fold().values()),
        "flops_share": result.share,
        "threads": request["threads"] or usable_cpus(),
        "device_name": None,
    }


def _close(trainee: GraphTrainee, draw: np.random.Generator) -> None:
    """Close blocks in a random order until no more is left than a run leaves."""
    own = trainee.parameters
    if own.may_close:
        for block in draw.permutation(own.open_blocks()).tolist():
            if float(trainee.costs()[-1]) <= trainee.share_left:
                return
            own.close(block)


def _config(request: Answer, adaptor: AdaptorSpec, sha256: str) -> RunConfig:
    return RunConfig(
        domain="bench",
        data="noise",
        method="da3",
        backbone=request["backbone"],
        weights_sha256=sha256,
        classes=tuple(str(label) for label in range(request["classes"])),
        size=request["size"],
        epochs=1,
        batch_size=request["batch"],
        lr=recipe.LEARNING_RATE,
        keep=request["flops_budget"],
        seed=request["seed"],
        flip=False,
        label_smoothing=DEFAULTS.label_smoothing,
        adaptor=adaptor,
        memory=MemorySettings(keep_precision="fp32", micro_batch=request["memory"]["micro_batch"]),
    )


if __name__ == "__main__":
    serve(_work)
