"""Training methods: what each trains of a network, and what it stores of a domain."""

from da3.toolchain.methods.base import Batch, Images, Learner, Photos, Task, adaptor_spec
from da3.toolchain.methods.da3 import Da3
from da3.toolchain.methods.ordinary import Ordinary
from da3.toolchain.methods.registry import METHODS, method

__all__ = [
    "METHODS",
    "Batch",
    "Da3",
    "Images",
    "Learner",
    "Ordinary",
    "Photos",
    "Task",
    "adaptor_spec",
    "method",
]
