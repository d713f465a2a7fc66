"""What training costs and reaches, and how fast the engine is, measured side by side as docs/bench.md says.

Each name is imported when it is first used: timing the engine needs no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from da3.toolchain.bench.accuracy import bench_accuracy
    from da3.toolchain.bench.accuracy_plan import AccuracyPlan, domains_in
    from da3.toolchain.bench.distributed import DistributedPlan, bench_distributed
    from da3.toolchain.bench.engine import bench_bundle, compare, switch_us
    from da3.toolchain.bench.fleet import FleetBenchPlan, bench_fleet
    from da3.toolchain.bench.plots import draw_accuracy, draw_run, draw_train
    from da3.toolchain.bench.progress import BenchReporter, ConsoleBenchReporter, SilentBenchReporter
    from da3.toolchain.bench.scale import ScalePlan, bench_scale
    from da3.toolchain.bench.scale_tables import scale_table
    from da3.toolchain.bench.stream import bench_stream
    from da3.toolchain.bench.tables import (
        accuracy_table,
        distributed_table,
        fleet_table,
        run_table,
        stream_table,
        train_table,
        whole_table,
    )
    from da3.toolchain.bench.train import TrainPlan, bench_train
    from da3.toolchain.bench.variants import Variant, check_shared, parse
    from da3.toolchain.bench.whole_process import bench_whole_process

_MODULES = {
    "accuracy": ("bench_accuracy",),
    "accuracy_plan": ("AccuracyPlan", "domains_in"),
    "distributed": ("DistributedPlan", "bench_distributed"),
    "engine": ("bench_bundle", "compare", "switch_us"),
    "fleet": ("FleetBenchPlan", "bench_fleet"),
    "plots": ("draw_accuracy", "draw_run", "draw_train"),
    "progress": ("BenchReporter", "ConsoleBenchReporter", "SilentBenchReporter"),
    "scale": ("ScalePlan", "bench_scale"),
    "scale_tables": ("scale_table",),
    "stream": ("bench_stream",),
    "tables": (
        "accuracy_table",
        "distributed_table",
        "fleet_table",
        "run_table",
        "stream_table",
        "train_table",
        "whole_table",
    ),
    "train": ("TrainPlan", "bench_train"),
    "variants": ("Variant", "check_shared", "parse"),
    "whole_process": ("bench_whole_process",),
}

__all__ = [
    "AccuracyPlan",
    "BenchReporter",
    "ConsoleBenchReporter",
    "DistributedPlan",
    "FleetBenchPlan",
    "ScalePlan",
    "SilentBenchReporter",
    "TrainPlan",
    "Variant",
    "accuracy_table",
    "bench_accuracy",
    "bench_bundle",
    "bench_distributed",
    "bench_fleet",
    "bench_scale",
    "bench_stream",
    "bench_train",
    "bench_whole_process",
    "check_shared",
    "compare",
    "distributed_table",
    "domains_in",
    "draw_accuracy",
    "draw_run",
    "draw_train",
    "fleet_table",
    "parse",
    "run_table",
    "scale_table",
    "stream_table",
    "switch_us",
    "train_table",
    "whole_table",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
