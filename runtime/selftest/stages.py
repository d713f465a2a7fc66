"""The stages of a self-test by name, in the order in which they run, and what the process of one does."""

import traceback
from typing import Any, Callable, Dict, Mapping, NamedTuple

from ..errors import Da3Error
from .findings import Teller
from .options import SelftestOptions
from .stage_engines import check_engines
from .stage_environment import Doctor, check_environment
from .stage_memory import check_memory
from .stage_parts import check_parts
from .stage_pipeline import check_pipeline
from .stage_timing import check_timing
from .stage_whole import check_whole

_LINES = 12  # of a traceback


class Stage(NamedTuple):
    """title: what it answers."""

    name: str
    title: str


STAGES = (
    Stage("environment", "what this machine is"),
    Stage("engines", "do the engines load?"),
    Stage("parts", "does every engine compute what it should, alone and one after the other?"),
    Stage("pipeline", "are pictures answered as they should be?"),
    Stage("timing", "what does a picture take?"),
    Stage("whole", "is one engine for the whole better?"),
    Stage("memory", "what memory does it take?"),
)


def run_stage(name: str, options: SelftestOptions, tell: Teller, doctor: Doctor, earlier: Mapping[str, Any]) -> None:
    """Run a stage in this process. What it raises is a finding.

    earlier: {"findings": [...], "notes": {...}} of the stages before.
    """
    work: Dict[str, Callable[[], None]] = {
        "environment": lambda: check_environment(options, tell, doctor),
        "engines": lambda: check_engines(options, tell),
        "parts": lambda: check_parts(options, tell),
        "pipeline": lambda: check_pipeline(options, tell),
        "timing": lambda: check_timing(options, tell),
        "whole": lambda: check_whole(options, tell, earlier),
        "memory": lambda: check_memory(options, tell),
    }
    try:
        work[name]()
    except (Da3Error, OSError) as error:
        tell.check(False, name, str(error))
    except Exception as error:  # a report is wanted whatever is wrong
        lines = traceback.format_exc().strip().split("\n")[-_LINES:]
        tell.check(False, name, "%s: %s" % (type(error).__name__, error), {"traceback": lines})
