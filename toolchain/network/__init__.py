"""The network of a domain: adaptors, exits, bypasses and head on a frozen backbone, and which blocks are closed."""

from da3.toolchain.network.adaptor import Adaptor
from da3.toolchain.network.block_selection import closing_costs, fit_bypasses, open_blocks
from da3.toolchain.network.bypass import LowRankBypass
from da3.toolchain.network.exits import Exit, exit_places, with_exits
from da3.toolchain.network.head import Head
from da3.toolchain.network.loss import answers_loss
from da3.toolchain.network.model import BlockOutput, DomainModel, Output
from da3.toolchain.network.slicing import images_a_slice
from da3.toolchain.network.totals import Total, own_total

__all__ = [
    "Adaptor",
    "BlockOutput",
    "DomainModel",
    "Exit",
    "Head",
    "LowRankBypass",
    "Output",
    "Total",
    "answers_loss",
    "closing_costs",
    "exit_places",
    "fit_bypasses",
    "images_a_slice",
    "open_blocks",
    "own_total",
    "with_exits",
]
