"""What runs when: plans joined into subgraphs, walked step by step, and the one rule and count of which blocks run."""

from .decisions import Leaving, Overrides, check_overrides, forced, leaves, leaving, opens, threshold
from .flops import flops_share, reached_blocks, result_shares, saved_shares
from .layout import Call, Layout, Subgraph, free_sizes, join_plan, whole_plan
from .walk import Visit, inputs_of, walk

__all__ = [
    "Call",
    "Layout",
    "Leaving",
    "Overrides",
    "Subgraph",
    "Visit",
    "check_overrides",
    "flops_share",
    "forced",
    "free_sizes",
    "inputs_of",
    "join_plan",
    "leaves",
    "leaving",
    "opens",
    "reached_blocks",
    "result_shares",
    "saved_shares",
    "threshold",
    "walk",
    "whole_plan",
]
