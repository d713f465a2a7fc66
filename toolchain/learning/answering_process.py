"""The process that makes the graphs which answer for a domain: ``python -m da3.toolchain.learning.answering_process``.

The runtime stores them in the bundle, where the process that learns finds them; see ``Worker``.
"""

from __future__ import annotations

import numpy as np

from da3.runtime.bundle import Bundle
from da3.runtime.learning import CpuRunning, GraphTrainee
from da3.runtime.training import RunConfig
from da3.toolchain.learning.options import ENGINE
from da3.toolchain.process import Answer, Say, serve


def _work(request: Answer, say: Say) -> None:
    config = RunConfig.from_json(request["config"])
    with Bundle(request["bundle"]) as bundle:
        trainee = GraphTrainee(bundle, config, CpuRunning(ENGINE, 1))
        try:
            for block in request["closed"]:
                trainee.parameters.close(block)
            trainee.predict()(np.zeros((1, config.size, config.size, 3), np.uint8))
        finally:
            trainee.close()


if __name__ == "__main__":
    serve(_work)
