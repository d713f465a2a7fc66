"""``da3 train --engine onnxruntime``: a domain learnt by an inference engine. It imports no PyTorch."""

from da3.toolchain.learning.options import ENGINE, ENGINES, EngineOptions
from da3.toolchain.learning.train import Learnt, learn_on_engine

__all__ = ["ENGINE", "ENGINES", "EngineOptions", "Learnt", "learn_on_engine"]
