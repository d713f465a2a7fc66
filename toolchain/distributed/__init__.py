"""Several processes that train one domain together: how they find each other, and what they tell each other."""

from da3.toolchain.distributed.joined import Joined, LostError
from da3.toolchain.distributed.joining import join

__all__ = ["Joined", "LostError", "join"]
