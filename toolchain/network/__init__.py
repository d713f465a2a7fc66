"""The network of a domain: adaptors, gates, bypasses and head on a frozen backbone, and how its gates are chosen."""

from da3.toolchain.network.adaptor import Adaptor
from da3.toolchain.network.bypass import LowRankBypass
from da3.toolchain.network.gate_selection import close_gate, fit_bypasses, gate_costs, open_blocks
from da3.toolchain.network.gating import Gating
from da3.toolchain.network.head import Head
from da3.toolchain.network.model import BlockOutput, DomainModel, Output
from da3.toolchain.network.slicing import images_a_slice

__all__ = [
    "Adaptor",
    "BlockOutput",
    "DomainModel",
    "Gating",
    "Head",
    "LowRankBypass",
    "Output",
    "close_gate",
    "fit_bypasses",
    "gate_costs",
    "images_a_slice",
    "open_blocks",
]
