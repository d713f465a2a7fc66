"""Every graph we write is parsed and built by a real TensorRT: TensorRT-RTX, whose builder needs no GPU.

The project's own builder drives it, so its calls meet real bindings too. Running what was built takes a GPU.
"""

import sys

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from da3.export.domain import DomainFacts, trained_domain
from da3.export.segments import deploy
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.bundle.changing import put_file
from da3.runtime.bundle.plan import closable, exit_steps
from da3.runtime.bundle.writer import to_json, write_files
from da3.runtime.errors import BackendError
from da3.runtime.images.preprocess import Preprocessing
from da3.runtime.onnx_graph.int8_places import convolved, summed
from da3.runtime.onnx_graph.int8_ranges import INT8_FILE
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.subgraphs import engine_subgraph, for_images
from da3.runtime.onnx_graph.whole import whole_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.schedule.layout import join_plan
from da3.runtime.training.config import AdaptorSpec
from da3.runtime.trt.api import Library
from da3.runtime.trt.build import is_quantised
from da3.runtime.trt.builder import Builder, Recipe
from da3.runtime.trt.engines import EngineOptions, engine_specs, profile, unique
from da3.runtime.trt.formats import LINEAR
from da3.runtime.trt.tensor_spec import FULL, TensorSpec
from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.network import DomainModel, with_exits

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="no TensorRT-RTX: pip install '.[rtx]'")

BATCH = (1, 8)
WORKSPACE = 1 << 30
NANO, XAVIER, ORIN = 53, 72, 87
SMALL = [("mobilenet_v2", 0.35, 64), ("resnet18", 1.0, 64)]
LARGE = [
    ("mobilenet_v2", 1.0, 224),
    ("resnet34", 1.0, 224),
    ("resnet50", 1.0, 224),
    ("efficientnet_lite0", 1.0, 224),
]
NETWORKS = [pytest.param(network, id=network[0]) for network in SMALL]
NETWORKS += [pytest.param(n, id=f"{n[0]}-{n[2]}px", marks=pytest.mark.slow) for n in LARGE]


@pytest.fixture
def library(monkeypatch):
    """da3's TensorRT layer over TensorRT-RTX's bindings."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)
    return Library()


def trained(arch, width, size):
    """A network of random weights, with exits; domains may close every block of it that can be."""
    torch.manual_seed(0)
    backbone = load_backbone(arch, random_weights(arch, width))
    spec = with_exits(AdaptorSpec(), backbone, size)
    return DomainModel(backbone, spec, size=size, classes=3, may_close=True)


@pytest.fixture(scope="module", params=NETWORKS)
def bundle(request, tmp_path_factory):
    """A bundle as the exporter writes it, of random weights and without domains; every convolution may be INT8."""
    model = trained(*request.param)
    deployment = deploy(model, Preprocessing(model.size, 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    models = {name: read_model(data) for name, data in deployment.files.items()}
    ranges, others = (
        {name: dict.fromkeys(find(model), 4.0) for name, model in models.items() if find(model)}
        for find in (convolved, summed)
    )
    folder = tmp_path_factory.mktemp("rtx") / "bundle"
    write_files(folder, deployment.every_file())
    with Bundle(folder) as opened:
        put_file(opened, INT8_FILE, to_json({"format": 1, "ranges": ranges, "others": others}))
    with Bundle(folder) as opened:
        yield opened


def refused(library, graphs):
    """What TensorRT has against each of (name, ONNX bytes, inputs, outputs, precision); {} if it builds them all."""
    builder, found = Builder(library), {}
    for name, data, inputs, outputs, precision in graphs:
        recipe = Recipe(
            name=name,
            profiles={spec.tensor: profile(spec, EngineOptions(precision, BATCH)) for spec in inputs},
            layouts={spec.tensor: spec.layout for spec in (*inputs, *outputs)},
            half=precision != "fp32",
            int8=precision == "int8",
            workspace=WORKSPACE,
        )
        try:
            assert builder.plan(data, recipe)
        except BackendError as error:
            found[name] = str(error)
    return found


def plain(values):
    return [TensorSpec(v.name, v.name, v.shape, FULL, LINEAR) for v in values]


def test_every_file_as_exported(library, bundle):
    segments = {segment.file: segment for segment in bundle.manifest.segments.values()}
    assert segments.keys() == bundle.manifest.files.keys() - {INT8_FILE}
    graphs = [
        (name, bundle.read(name), plain(segment.inputs), plain(segment.outputs), "fp32")
        for name, segment in segments.items()
    ]
    assert refused(library, graphs) == {}


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network[0])
def test_standalone(network, library):
    """The one file of `da3 export --standalone`."""
    model = trained(*network)
    deployment = deploy(model, Preprocessing(model.size, 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    rules = [{"threshold": 0.5, "temperature": 1.2}] * len(model.exits)
    domain = trained_domain(model, DomainFacts("signs", ("a", "b", "c"), {}), {"exits": rules})
    data = write_model(whole_model(deployment, domain, gated=True))
    ends = [plain([info]) for infos in (read_model(data).inputs, read_model(data).outputs) for info in infos]
    assert refused(library, [("standalone", data, *ends, "fp32")]) == {}


@pytest.mark.parametrize(
    ("precision", "sm", "typed", "batch"),
    [
        ("fp32", ORIN, True, BATCH),
        ("fp16", ORIN, True, BATCH),
        ("fp16", NANO, True, (1, 1)),
        ("int8", ORIN, True, BATCH),
        # The graphs for TensorRT 8 and 10: float32, and here their borders are, too, since types are strong.
        pytest.param("int8", XAVIER, False, BATCH, marks=pytest.mark.slow),
    ],
)
def test_every_engine(precision, sm, typed, batch, library, bundle):
    """All that `da3 build` builds: the parts between exits, with all blocks and with all closed that can be, dynamic
    batch or one image, the pinned memory layouts of old and new GPUs."""
    options, manifest = EngineOptions(precision, batch), bundle.manifest
    layouts = [join_plan(manifest, True, closed=closed) for closed in ((), closable(manifest.plan))]
    specs = unique([spec for layout in layouts for spec in engine_specs(layout, manifest, options, sm=sm, typed=True)])
    parts = len(exit_steps(manifest.plan)) + 1
    assert parts < len(specs) <= 2 * parts
    assert {n for spec in specs for tensor in spec.tensors for n in tensor.shape if isinstance(n, str)} == {"batch"}
    graphs, quantised = [], 0
    for one in specs:
        model = engine_subgraph(
            one.subgraph, bundle, precision, [tensor.tensor for tensor in one.tensors if tensor.dtype == FULL], typed
        )
        if batch == (1, 1):
            model = for_images(model, one.subgraph.segment, 1)
        quantised += is_quantised(model)
        assert "Cast" not in {node.op for node in model.nodes}
        ends = (one.inputs, one.outputs) if typed else map(plain, (model.inputs, model.outputs))
        graphs.append((one.subgraph.segment.name, write_model(model), *ends, precision))
    assert any("+" in name for name, *_ in graphs) and (quantised > 0) == (precision == "int8")
    fast = {spec.layout for _, _, inputs, outputs, _ in graphs for spec in (*inputs, *outputs)} - {LINEAR}
    assert fast == (set() if precision == "fp32" or not typed else {"CHW2" if sm == NANO else "HWC8"})
    assert refused(library, graphs) == {}


SHAPE = ("batch", 8, 4, 4)
RELU = ("Relu", ["x"])
ADD = ("Add", ["x", "w"])
UNIQUE = ("Unique", ["x"])


@pytest.mark.parametrize(
    ("node", "dtype", "weights", "layout", "words"),
    [
        (RELU, np.float16, {}, "HWC8", None),
        (RELU, np.float32, {}, "HWC8", "unsupported by tensor's allowed TensorFormats"),
        (ADD, np.float16, {"w": np.ones((8, 1, 1), np.float32)}, LINEAR, "must have same input types"),
        (ADD, np.float32, {"w": np.ones((5, 1, 1), np.float32)}, LINEAR, "broadcast"),
        (UNIQUE, np.float32, {}, LINEAR, "Unique"),
    ],
)
def test_what_it_refuses(node, dtype, weights, layout, words, library):
    """Building proves something: TensorRT looks at types, shapes and layouts, and its words come through."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    infos = [[helper.make_tensor_value_info(name, kind, SHAPE)] for name in "xy"]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = helper.make_model(
        helper.make_graph([helper.make_node(*node, ["y"])], "odd", *infos, constants),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=7,
    )
    specs = [[TensorSpec(name, name, SHAPE, FULL, layout)] for name in "xy"]
    said = refused(library, [("odd", model.SerializeToString(), *specs, "fp16")])
    if words is None:
        assert said == {}
    else:
        assert said["odd"].startswith(f"TensorRT {library.version} does not build odd: ") and words in said["odd"]
