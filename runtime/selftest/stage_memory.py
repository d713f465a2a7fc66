"""Stage: the memory of a process that opens the bundle, loads a domain, and runs a few pictures, as a program does."""

from ..bundle.bundle import Bundle
from ..engine import Runtime
from ..system.memory import available_bytes, peak_bytes
from ..system.sizes import render_bytes
from ..trt.inspection import gpu_memory
from .computing import tried_domain
from .findings import PASS, Teller
from .options import SelftestOptions
from .pictures import golden_pictures, network_images

_RUNS = 10


def check_memory(options: SelftestOptions, tell: Teller) -> None:
    """Tells the peak of this process, before and after, and what is available on the machine."""
    with Bundle(options.bundle) as bundle:
        on_gpu = options.new_backend(bundle).name == "tensorrt"
    before, free, gpu = peak_bytes(), available_bytes(), gpu_memory()[0] if on_gpu else None
    with Runtime(options.bundle, **options.runtime_words()) as runtime:
        if runtime.domains:
            domain = runtime.load(runtime.domains[0])
        else:
            domain = runtime.load(tried_domain(runtime.bundle.manifest))
        image = network_images(golden_pictures()[:1], runtime.preprocessing)
        for _ in range(_RUNS):
            runtime.run_batch(image, domain.name)
        values = {"before": before, "peak": peak_bytes(), "available before": free, "available": available_bytes()}
        text = "the process took %s at most, %s of it before the bundle was opened" % (
            render_bytes(values["peak"] or 0),
            render_bytes(before),
        )
        if gpu is not None:
            values["gpu taken"] = gpu - gpu_memory()[0]
            text += "; loading took %s of the GPU's memory" % render_bytes(max(0, values["gpu taken"] or 0))
        tell.find(PASS, "peak memory", text, values)
