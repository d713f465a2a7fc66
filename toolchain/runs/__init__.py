"""Training runs on disk: found, described and compared. Nothing here loads a tensor, or PyTorch."""

from da3.toolchain.runs.catalogue import FoundRun, find_run, find_runs
from da3.toolchain.runs.comparing import differences

__all__ = ["FoundRun", "differences", "find_run", "find_runs"]
