"""How one ONNX graph is made a TensorRT plan, on whatever release is there.

Where TensorRT takes types as they are written (11), precision lies in the graph. Where it picks them (8 to 10), the
graph is float32; flags allow float16 and INT8, and inputs and outputs are told their type and layout apart from the
graph, as trtexec's --inputIOFormats and --outputIOFormats do (samples/common/sampleEngines.cpp). ITensor::setType in
include/NvInfer.h says what a release does with it: in a network of strong types, it must equal what is inferred.
"""

from typing import Any, Dict, NamedTuple, Tuple

from ..cuda.interface import Cuda
from ..errors import BackendError
from .api import Library
from .engines import Profile

# Tactics from libraries, which are loaded with the first engine that may use one, and stay: about 240 MiB for cuBLAS
# and 400 for cuDNN on a Nano. 10 has them off, 11 has none.
_LIBRARIES = ("CUBLAS", "CUBLAS_LT", "CUDNN")
_WORKSPACE = 1 << 30


def default_workspace(cuda: Cuda) -> int:
    """Bytes that TensorRT may take to work in where nobody says: 1 GiB, or half of what can be reserved if that is
    less. The context must be pushed."""
    return min(_WORKSPACE, cuda.available() // 2)


class Recipe(NamedTuple):
    """How to build one graph. name: for messages; profiles: the shapes of each input; layouts: how each input and
    output lies in memory; half, int8: does the engine compute in float16, or the graph have Q/DQ pairs? workspace:
    bytes that TensorRT may take to work in. halves: inputs and outputs that are float16 where the graph has float32;
    nothing where TensorRT takes types as they are written. libraries: tactics of cuBLAS and cuDNN are allowed."""

    name: str
    profiles: Dict[str, Profile]
    layouts: Dict[str, str]
    half: bool
    int8: bool
    workspace: int
    halves: Tuple[str, ...] = ()
    libraries: bool = False


class GraphRefused(BackendError):
    """TensorRT's parser does not take a graph, whatever the layouts and tactics."""


class Builder:
    """TensorRT's builder with one timing cache, for any number of graphs one after another. The CUDA context must be
    pushed."""

    def __init__(self, library: Library, timing: bytes = b"") -> None:
        self._library = library
        self._timing = timing
        library.forget()
        try:
            self._builder = library.trt.Builder(library.log)
        except Exception as error:  # pybind11 raises what C++ threw as RuntimeError or TypeError
            raise BackendError("TensorRT cannot build on this machine: %s" % library.said(error))

    @property
    def timing(self) -> bytes:
        """The timing cache, serialised: what was measured so far."""
        return self._timing

    @property
    def has_libraries(self) -> bool:
        """Does this release take tactics from cuBLAS or cuDNN unless it is told not to?"""
        return self._sources(self._builder.create_builder_config(), True) != 0

    def plan(self, model: bytes, recipe: Recipe) -> bytes:
        """The plan of an ONNX file. Raises BackendError with TensorRT's words, GraphRefused among them."""
        self._library.forget()
        try:
            plan = self._build(model, recipe)
        except BackendError:
            raise
        except Exception as error:  # see __init__
            raise BackendError(self._failed(recipe, error))
        if plan is None:
            raise BackendError(self._failed(recipe))
        return bytes(plan)

    def leanest(self, model: bytes, recipe: Recipe) -> bytes:
        """`plan` without tactics of cuBLAS and cuDNN, or with them where it does not build without."""
        try:
            return self.plan(model, recipe._replace(libraries=False))
        except GraphRefused:
            raise
        except BackendError:
            if not self.has_libraries:
                raise
        return self.plan(model, recipe._replace(libraries=True))

    def _build(self, model: bytes, recipe: Recipe) -> Any:
        trt, library, builder = self._library.trt, self._library, self._builder
        network = builder.create_network(self._network_flags())
        parser = trt.OnnxParser(network, library.log)
        if not parser.parse(model):
            errors = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
            raise GraphRefused(self._failed(recipe, "; ".join(errors)))
        config = builder.create_builder_config()
        self._configure(config, recipe)
        profile = builder.create_optimization_profile()
        dynamic = False
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            if -1 in tuple(tensor.shape):
                profile.set_shape(tensor.name, *recipe.profiles[tensor.name])
                dynamic = True
            self._lay_out(tensor, recipe)
        for i in range(network.num_outputs):
            self._lay_out(network.get_output(i), recipe)
        if dynamic:
            config.add_optimization_profile(profile)
        cache = self._cache(config)
        plan = builder.build_serialized_network(network, config)
        if plan is not None and cache is not None:
            self._timing = bytes(cache.serialize())
        return plan

    def _network_flags(self) -> int:
        flags = self._library.trt.NetworkDefinitionCreationFlag
        names = ["EXPLICIT_BATCH"] + ["STRONGLY_TYPED"] * self._library.typed
        return sum(1 << int(getattr(flags, name)) for name in names if hasattr(flags, name))

    def _configure(self, config: Any, recipe: Recipe) -> None:
        trt = self._library.trt
        if hasattr(config, "set_memory_pool_limit"):
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace)
        else:
            config.max_workspace_size = recipe.workspace
        if not self._library.typed:
            if recipe.half:
                config.set_flag(trt.BuilderFlag.FP16)
            if recipe.int8:
                config.set_flag(trt.BuilderFlag.INT8)
        if hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)  # float32 shall be float32
        if hasattr(config, "max_aux_streams"):
            config.max_aux_streams = 0  # the subgraphs are chains; one stream is all they can use
        if self._library.shares_profiles and not self._library.picks_memory:
            config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)  # later ones always do
        self._choose_tactics(config, recipe)

    def _choose_tactics(self, config: Any, recipe: Recipe) -> None:
        """With libraries or without. Where the release has nothing to choose, nothing is set."""
        libraries = self._sources(config, True)
        if not libraries:
            return
        config.set_tactic_sources(self._sources(config, False) | (libraries if recipe.libraries else 0))
        external = getattr(
            getattr(self._library.trt, "PreviewFeature", None), "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", None
        )
        if external is not None:  # on by default in 8.6, and stronger than the sources
            config.set_preview_feature(external, not recipe.libraries)

    def _sources(self, config: Any, libraries: bool) -> int:
        """Of the tactic sources that a new configuration has on: those that are libraries, or the others."""
        known = self._library.trt.TacticSource
        mask = sum(1 << int(getattr(known, name)) for name in _LIBRARIES if hasattr(known, name))
        return int(config.get_tactic_sources()) & (mask if libraries else ~mask)

    def _lay_out(self, tensor: Any, recipe: Recipe) -> None:
        if tensor.name in recipe.halves:
            tensor.dtype = self._library.trt.DataType.HALF
        layout = recipe.layouts[tensor.name]
        tensor.allowed_formats = 1 << int(getattr(self._library.trt.TensorFormat, layout))

    def _cache(self, config: Any) -> Any:
        """The timing cache so far, or a new one where this release does not take it."""
        for data in (self._timing, b""):
            try:
                cache = config.create_timing_cache(data)
                if cache is not None and config.set_timing_cache(cache, False) is not False:
                    return cache
            except Exception:  # see __init__; building goes without
                continue
        return None

    def _failed(self, recipe: Recipe, error: object = "") -> str:
        library = self._library
        return "TensorRT %s does not build %s: %s" % (library.version, recipe.name, library.said(error))
