"""One training step by every way there is on the machine that runs this: run_engine.pyz, bundle, domain, file to write.

It needs no more than the runtime does, and is run by an emulated Python.
"""

import json
import sys

import numpy as np

sys.path.insert(0, sys.argv[1])

from da3.runtime.backends.training_graph import block_size, for_this_cpu
from da3.runtime.bundle import Bundle, read_domain
from da3.runtime.errors import BackendError
from da3.runtime.learning import derive_step
from da3.runtime.learning.on_cpu import OnnxRuntimeRunner, ReferenceRunner
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model

PHOTOS = 3
try:
    block = block_size(1)
except BackendError:
    block = 1
with Bundle(sys.argv[2]) as bundle:
    domain = read_domain(bundle, sys.argv[3])
    size, classes = bundle.manifest.preprocessing.size, len(domain.classes)
    step = derive_step(bundle, classes)
rng = np.random.RandomState(0)
feeds = {
    "image": rng.normal(0, 1, (PHOTOS, 3, size, size)).astype(np.float32),
    "target": np.eye(classes, dtype=np.float32)[np.arange(PHOTOS) % classes],
    "scale": np.full((PHOTOS, 1), 1 / PHOTOS, np.float32),
}
feeds.update({"domain:" + name: tensor for name, tensor in domain.weights.items()})
made = for_this_cpu(step.model, 1)
runners = {
    "plain": OnnxRuntimeRunner(write_model(step.model), 1),
    "cpu": OnnxRuntimeRunner(made, 1, True),
    "reference": ReferenceRunner(step.model),
}
arrays = {way + "/" + name: array for way, runner in runners.items() for name, array in runner.run(feeds).items()}
np.savez(sys.argv[4], **arrays)
blocked = sum(node.domain == "com.microsoft.nchwc" for node in read_model(made).nodes)
print(json.dumps({"block": block, "nodes_in_blocks": blocked}))
