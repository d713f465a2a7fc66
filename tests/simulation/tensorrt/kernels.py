"""Which kernels (tactics) the double's builder has, and from which sources.

The sources, their numbers and their defaults are those of `TacticSource` in include/NvInferRuntime.h at the tags of the
releases: cuBLAS and cuDNN are on in 8.x, off from 10 on and gone in 11; cuBLASLt is off on a Jetson with CUDA below 11.
8.6 leaves cuBLAS and cuDNN out of its core, whatever the sources say, unless a preview feature is off.
"""

# What each is assumed to take of a board's memory once it is loaded. A log of a Nano has 241 MiB for cuDNN on the CPU's
# side alone (ultralytics/ultralytics issue 14751), one of a Xavier NX 617 and 586 on both (NVIDIA/TensorRT issue 3917).
LIBRARIES = {"CUBLAS": 240 << 20, "CUBLAS_LT": 0, "CUDNN": 400 << 20}
_PREVIEW = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"
_OLD = ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")


def sources(api):
    """{name: number} of a release."""
    names = _OLD[3:] if api.number >= (11,) else _OLD if api.number >= (8, 5) else _OLD[:3]
    return {name: number for number, name in enumerate(names)}


def default_sources(api, device):
    """The mask that a new configuration has."""
    off = set(LIBRARIES) if api.number >= (10,) else {"CUBLAS_LT"} if api.number < (8, 5) and device.sm < 80 else set()
    return sum(1 << number for name, number in sources(api).items() if name not in off)


def default_previews(api):
    """The preview features that a new configuration has on."""
    return {_PREVIEW} if (8, 6) <= api.number < (9,) else set()


def allowed(config):
    """The sources that a build may use, by name."""
    names = [name for name, number in sources(config._home.api).items() if config._sources >> number & 1]
    return [name for name in names if not (name in LIBRARIES and _PREVIEW in config._preview)]


def load_libraries(device, names):
    """Load the libraries among these sources, as building or reading an engine does that may use them. Fault
    OUT_OF_MEMORY where there is no room."""
    for name in sorted(LIBRARIES.keys() & set(names)):
        device.store.load(name, LIBRARIES[name])


def missing(network, config):
    """The name of a node for which there is no kernel, None if there is one for all.

    Every kernel is there; a test that wants some to be missing replaces `there`.
    """
    return next(
        (node.name or node.output[0] for node in network._model.graph.node if not there(node, network, config)), None
    )


def there(node, network, config):
    """Is there a kernel for a node of a network?"""
    return True
