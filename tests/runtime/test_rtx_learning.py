"""The graphs that learning runs on TensorRT, as its engines are built of them, go through a real TensorRT's builder."""

import pytest
from test_rtx_builder import WORKSPACE, bundle, library  # noqa: F401

from da3.runtime.bundle.plan import closable
from da3.runtime.errors import BackendError
from da3.runtime.learning.engine_graph import engine_graph
from da3.runtime.learning.making import ANSWERS, FORCED, OBSERVATION, STEP, derive
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.trt.builder import Builder, Recipe
from da3.runtime.trt.formats import LINEAR

CLASSES, PHOTOS = 3, 4


@pytest.mark.parametrize("half", [pytest.param(False, marks=pytest.mark.slow), True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("closing", [False, True], ids=["open", "closed"])
def test_every_graph_builds(closing, half, library, bundle):  # noqa: F811
    """With fixed shapes, and without a profile: TensorRT-RTX takes types as they are written."""
    closed = closable(bundle.manifest.plan) if closing else ()
    builder = Builder(library)
    for kind in (STEP,) if half else (STEP, OBSERVATION, FORCED, ANSWERS):  # the others are float32 always
        graph = engine_graph(derive(kind, bundle, CLASSES, closed), kind, kind, PHOTOS, half, typed=True)
        model = read_model(graph.data)
        assert "LogSoftmax" not in {node.op for node in model.nodes}
        assert all(isinstance(n, int) for info in model.inputs + model.outputs for n in info.shape)
        assert [end.shape for end in graph.outputs] == [info.shape for info in model.outputs]
        recipe = Recipe(
            name=kind,
            profiles={},
            layouts={end.name: LINEAR for end in graph.inputs + graph.outputs},
            half=half,
            int8=False,
            workspace=WORKSPACE,
        )
        try:
            assert builder.plan(graph.data, recipe)
        except BackendError as error:
            pytest.fail(f"{kind}: {error}")
