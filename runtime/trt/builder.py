"""How one ONNX graph is made a TensorRT plan, on whatever release is there.

Precision lies in the graph: from 9 on it is taken as written (strong types); before, TensorRT picks types itself
among those it is allowed, and float16 is allowed where the graph has any.
"""

from typing import Any, Dict, NamedTuple

from ..errors import BackendError
from .api import Library
from .engines import Profile


class Recipe(NamedTuple):
    """How to build one graph. name: for messages; profiles: the shapes of each input; layouts: how each input and
    output lies in memory; half, int8: does the graph have float16, or Q/DQ pairs? workspace: bytes that TensorRT may
    take to work in."""

    name: str
    profiles: Dict[str, Profile]
    layouts: Dict[str, str]
    half: bool
    int8: bool
    workspace: int


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

    def plan(self, model: bytes, recipe: Recipe) -> bytes:
        """The plan of an ONNX file. Raises BackendError with TensorRT's words."""
        self._library.forget()
        try:
            plan = self._build(model, recipe)
        except BackendError:
            raise
        except Exception as error:  # see __init__
            raise self._failed(recipe, error)
        if plan is None:
            raise self._failed(recipe)
        return bytes(plan)

    def _build(self, model: bytes, recipe: Recipe) -> Any:
        trt, library, builder = self._library.trt, self._library, self._builder
        network = builder.create_network(self._network_flags())
        parser = trt.OnnxParser(network, library.log)
        if not parser.parse(model):
            errors = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
            raise self._failed(recipe, "; ".join(errors))
        config = builder.create_builder_config()
        self._configure(config, recipe)
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            if -1 in tuple(tensor.shape):
                profile.set_shape(tensor.name, *recipe.profiles[tensor.name])
            self._lay_out(tensor, recipe)
        for i in range(network.num_outputs):
            self._lay_out(network.get_output(i), recipe)
        config.add_optimization_profile(profile)
        cache = self._cache(config)
        plan = builder.build_serialized_network(network, config)
        if plan is not None and cache is not None:
            self._timing = bytes(cache.serialize())
        return plan

    def _network_flags(self) -> int:
        flags = self._library.trt.NetworkDefinitionCreationFlag
        names = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(flags, name)]
        return sum(1 << int(getattr(flags, name)) for name in names)

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

    def _lay_out(self, tensor: Any, recipe: Recipe) -> None:
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

    def _failed(self, recipe: Recipe, error: object = "") -> BackendError:
        library = self._library
        return BackendError("TensorRT %s does not build %s: %s" % (library.version, recipe.name, library.said(error)))
