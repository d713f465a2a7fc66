"""From a bundle's subgraphs to the graphs that ONNX Runtime loads: joined, for one image, optimised for this CPU."""

import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar, Union

from ..bundle.bundle import Bundle
from ..bundle.plan import BATCH, IMAGE
from ..errors import BackendError, BundleError
from ..onnx_graph.model import Model
from ..onnx_graph.subgraphs import cpu_subgraph
from ..onnx_graph.writing import write_model
from ..records import Shape
from ..schedule.layout import Layout, Subgraph
from ..system.scratch import temporary_folder
from .blocked import block_borders
from .sessions import first_line, open_session, warn

_Size = TypeVar("_Size")


class MadeGraphs(NamedTuple):
    """files: the bytes of an ONNX file for each subgraph. shapes: of every value between subgraphs as it lies in its
    buffer, for one image; names of free dimensions stay. optimised: whether the files are to be loaded as they are."""

    files: List[bytes]
    shapes: Dict[str, Shape]
    optimised: bool


def make_graphs(
    layout: Layout, subgraphs: Sequence[Subgraph], bundle: Bundle, precision: str, threads: Optional[int]
) -> MadeGraphs:
    """The graphs of a layout's subgraphs. In float32 they are optimised, and they hand features on in blocks where ONNX
    Runtime computes in blocks.

    Raises BundleError if a file is not the one the manifest names, BackendError if a subgraph cannot be had in this
    precision.
    """
    models = [_for_one_image(cpu_subgraph(subgraph, bundle, precision)) for subgraph in subgraphs]
    shapes: Dict[str, Shape] = {name: _of_one_image(shape) for name, shape in layout.values.items()}
    if precision == "fp32":
        features = {name for name, shape in shapes.items() if len(shape) == 4 and name != IMAGE}
        try:
            return _optimised(models, shapes, features - set(layout.gates + layout.readable), threads)
        except (BackendError, BundleError, OSError) as error:
            warn("subgraphs keep their own memory layout, which is slower: %s" % first_line(error))
    return MadeGraphs([write_model(model) for model in models], shapes, optimised=False)


def _optimised(
    models: Sequence[Model], shapes: Dict[str, Shape], crossing: Set[str], threads: Optional[int]
) -> MadeGraphs:
    """What ONNX Runtime makes of the models. crossing: the values that may be handed on in blocks."""
    with temporary_folder("graph") as folder:
        path = os.path.join(folder, "optimised.onnx")

        def optimise(data: bytes) -> bytes:
            open_session(data, threads, save=path)
            with open(path, "rb") as file:
                return file.read()

        blocked = block_borders(models, crossing, optimise)
        if blocked is None:
            return MadeGraphs([optimise(write_model(model)) for model in models], shapes, optimised=True)
        files: List[bytes] = []
        while blocked.models:  # so that no more than one is in memory twice
            files.append(write_model(blocked.models.pop(0)))
        return MadeGraphs(files, dict(shapes, **blocked.shapes), optimised=True)


def _for_one_image(model: Model) -> Model:
    """ONNX Runtime can plan its memory ahead where it knows the shapes."""
    for infos in (model.inputs, model.outputs):
        infos[:] = [info._replace(shape=_of_one_image(info.shape)) for info in infos]
    return model


def _of_one_image(shape: Tuple[_Size, ...]) -> Tuple[Union[int, _Size], ...]:
    return tuple(1 if n == BATCH else n for n in shape)
