"""A graph for one number of photos: where nothing is free, engines are built without profiles, and for these sizes."""

from ..bundle.plan import BATCH
from ..onnx_graph.model import Info, Model

_TIMES = "*" + BATCH


def rows_of(side: int) -> str:
    """The name of a dimension with a row for each of side x side cells of each photo."""
    return "%d%s" % (side * side, _TIMES)


def rows_per_photo(info: Info) -> int:
    """How many rows of an input's or output's first dimension each photo has; 0 where it has none of its own."""
    first = info.shape[0] if info.shape else None
    if first == BATCH:
        return 1
    return int(first[: -len(_TIMES)]) if isinstance(first, str) and first.endswith(_TIMES) else 0


def with_batch(model: Model, photos: int) -> Model:
    """A copy of a derived graph whose inputs and outputs are those of so many photos."""
    inputs, outputs = ([_sized(info, photos) for info in infos] for infos in (model.inputs, model.outputs))
    return model.replace(inputs=inputs, outputs=outputs)


def _sized(info: Info, photos: int) -> Info:
    rows = rows_per_photo(info)
    return info._replace(shape=(photos * rows,) + info.shape[1:]) if rows else info
