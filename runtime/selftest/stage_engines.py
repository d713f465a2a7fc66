"""Stage: what TensorRT's engines are, before one is run: do they load, how large are they, what are they made of?"""

from typing import Set

from ..bundle.bundle import Bundle
from ..errors import Da3Error
from ..schedule.layout import join_plan
from ..system.sizes import render_bytes
from ..trt.inspection import describe_engines
from .findings import PASS, SKIP, Teller
from .options import SelftestOptions
from .subjects import read_subject, subject_names, title_of


def check_engines(options: SelftestOptions, tell: Teller) -> None:
    """Tells a finding for each engine that the subjects need."""
    with Bundle(options.bundle) as bundle:
        backend = options.new_backend(bundle)
        if backend.name != "tensorrt":
            tell.find(SKIP, "engines", "%s has none that are built beforehand" % backend.name)
            return
        told: Set[str] = set()
        for subject in subject_names(bundle, options.quick):
            name = title_of(subject)
            try:
                layout = join_plan(bundle.manifest, True, closed=read_subject(bundle, subject).domain.closed)
                for name, facts in describe_engines(bundle, layout, options.engines, options.precision):
                    if facts is None:
                        tell.begin("loading the engine of %s" % name)
                    elif name not in told:
                        told.add(name)
                        text = "%s, its plan has %s, a run works in %s" % (
                            facts.precision,
                            render_bytes(facts.plan_bytes),
                            render_bytes(facts.scratch_bytes),
                        )
                        text += "" if facts.layers is None else ", %d layers" % len(facts.layers)
                        text += ", with tactics of cuBLAS or cuDNN" if facts.libraries else ""
                        tell.find(PASS, "engine of %s" % _short(name), text, facts._asdict())
            except Da3Error as error:
                tell.check(False, "engine of %s" % _short(name), str(error))


def _short(name: str) -> str:
    """A joined subgraph is called by all its segments."""
    parts = name.split("+")
    return name if len(parts) < 3 else "%s to %s" % (parts[0], parts[-1])
