"""What each release of the simulated builder and parser demands, and what they refuse."""

import re
import warnings

import numpy as np
import pytest
from onnx import TensorProto

from .. import RELEASES, simulated
from ..tensorrt import formats, kernels
from .helpers import (
    IMAGES,
    PROFILE,
    Bound,
    X,
    build,
    doubled,
    linear,
    load,
    misuse,
    model,
    network,
    pycuda_context,
)

FLOAT16 = TensorProto.FLOAT16
BEFORE_11 = [r for r in RELEASES if int(r.split(".")[0]) < 11]
BEFORE_10 = [r for r in RELEASES if int(r.split(".")[0]) < 10]


@pytest.fixture(params=RELEASES)
def trt(request):
    with simulated(tensorrt=request.param), pycuda_context():
        import tensorrt

        yield tensorrt


@pytest.fixture
def new():
    with simulated(tensorrt="10.16.1"), pycuda_context():
        import tensorrt

        yield tensorrt


def judged(release, data):
    """What the parser of a release says of a model: "" if it takes it."""
    with simulated(tensorrt=release), pycuda_context():
        import tensorrt

        _, _, _, parser = network(tensorrt, data)
        return "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))


def refused(trt, data):
    """What the parser says of a model that it must refuse."""
    _, _, _, parser = network(trt, data)
    assert parser.num_errors > 0
    return parser.get_error(0).desc()


# -- networks and configurations


def test_explicit_batch_is_needed_ignored_and_gone(trt):
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    plain = trt.Builder(logger).create_network(0)
    major = int(trt.__version__.split(".")[0])
    assert hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH") == (major < 11)
    assert trt.OnnxParser(plain, logger).parse(linear()) == (major >= 10)
    assert trt.Builder(logger).create_network(1 << 9) is None


def test_the_workspace_is_set_as_the_release_wants_it():
    for release, by_property, by_pool in (("8.2.1", 1, 0), ("8.6.1", 1, 1), ("10.16.1", 0, 1), ("11.4.0", 0, 1)):
        with simulated(tensorrt=release):
            import tensorrt as trt

            config = trt.Builder(trt.Logger()).create_builder_config()
            assert hasattr(config, "max_workspace_size") == by_property
            assert hasattr(config, "set_memory_pool_limit") == by_pool
            if by_pool:
                config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
                with pytest.raises(TypeError, match="MemoryPoolType"):
                    config.set_memory_pool_limit(0, 1 << 20)
            elif by_property:
                config.max_workspace_size = 1 << 20


def test_what_is_deprecated_warns():
    with simulated(tensorrt="8.6.1"), pycuda_context():
        import tensorrt as trt

        config = trt.Builder(trt.Logger()).create_builder_config()
        with pytest.warns(DeprecationWarning, match="set_memory_pool_limit"):
            config.max_workspace_size = 1
        engine = load(trt, build(trt, linear()))
        with pytest.warns(DeprecationWarning):
            engine.get_binding_name(0)
        del engine
    with simulated(tensorrt="8.2.1"), pycuda_context(), warnings.catch_warnings():
        import tensorrt as trt

        warnings.simplefilter("error")
        load(trt, build(trt, linear())).get_binding_name(0)


def test_dynamic_inputs_need_a_profile(trt, capsys):
    for profiles, words in (((), "no optimization profile"), (({},), "missing dimensions in profile 0")):
        assert build(trt, linear(), profiles) is None
        assert words in capsys.readouterr().out
    assert build(trt, linear(), ({"x": ((1, 5), (1, 5), (1, 5))},)) is None


def test_a_profile_must_make_sense(new):
    builder = new.Builder(new.Logger(new.Logger.INTERNAL_ERROR))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    with pytest.raises(RuntimeError, match="Shape provided for min is inconsistent"):
        profile.set_shape("x", (-1, 4), (2, 4), (8, 4))
    with pytest.raises(TypeError):
        profile.set_shape("x", 1, 2, 3)
    for shapes in (((2, 4), (1, 4), (8, 4)), ((1, 4), (9, 4), (8, 4)), ((1, 4), (2,), (8, 4))):
        profile.set_shape("x", *shapes)  # which is looked at later
        assert not profile and config.add_optimization_profile(profile) == -1
    assert config.add_optimization_profile(None) == -1 and config.num_optimization_profiles == 0


# -- precision


def test_types_are_weak_then_optional_then_strong(capsys):
    for release in RELEASES:
        with simulated(tensorrt=release), pycuda_context():
            import tensorrt as trt

            weak = build(trt, linear(FLOAT16), prepare=lambda c, trt=trt: [
                c.clear_flag(trt.BuilderFlag.FP16) for _ in "1" if hasattr(trt.BuilderFlag, "FP16")
            ])  # fmt: skip
            assert (weak is None) == (release != "11.4.0"), release
            assert ("FP16 is not set" in capsys.readouterr().out) == (release != "11.4.0")
            assert hasattr(trt.BuilderFlag, "FP16") == (release != "11.4.0")
            assert load(trt, build(trt, linear(FLOAT16))) is not None


def test_a_strongly_typed_network_takes_no_precision_flags(new, capsys):
    flags = new.NetworkDefinitionCreationFlag
    logger = new.Logger()
    builder = new.Builder(logger)
    net = builder.create_network(1 << int(flags.STRONGLY_TYPED))
    assert new.OnnxParser(net, logger).parse(linear(FLOAT16))
    for flagged in (True, False):
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("x", *PROFILE["x"])
        assert config.add_optimization_profile(profile) == 0
        if flagged:
            config.set_flag(new.BuilderFlag.FP16)
        assert (builder.build_serialized_network(net, config) is None) == flagged
        assert ("cannot be set for a strongly typed network" in capsys.readouterr().out) == flagged


def told(trt, data, **types):
    """The plan of a model whose input x and output y are told their types apart from it."""
    builder, made, config, parser = network(trt, data)
    assert parser.num_errors == 0
    for tensor in (made.get_input(0), made.get_output(0)):
        if tensor.name in types:
            tensor.dtype = types[tensor.name]
    profile = builder.create_optimization_profile()
    profile.set_shape("x", *PROFILE["x"])
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(made, config)


def test_borders_are_told_their_types_where_types_are_weak(capsys):
    for release in BEFORE_11:
        with simulated(tensorrt=release), pycuda_context() as cuda:
            import tensorrt as trt

            engine = load(trt, told(trt, linear(), x=trt.float16, y=trt.float16))
            named = hasattr(engine, "get_tensor_dtype")
            kinds = (
                [engine.get_tensor_dtype(n) for n in "xy"] if named else [engine.get_binding_dtype(i) for i in (0, 1)]
            )
            assert kinds == [trt.float16] * 2
            del engine
            bound = Bound(trt, cuda, bytes(told(trt, linear(), x=trt.float32)))
            assert (bound.infer(X) == 2 * X).all()
            bound.close()
            with pytest.raises(TypeError, match="DataType"):
                told(trt, linear(), x="float16")


def test_a_told_type_is_converted(capsys):
    with simulated(tensorrt="8.2.1"), pycuda_context() as cuda:
        import tensorrt as trt

        bound = Bound(trt, cuda, bytes(told(trt, linear(), x=trt.float16)))
        bound.host = cuda.pagelocked_empty((2, 4), np.float16)
        assert (bound.infer(X) == 2 * X).all()
        bound.close()
        flagged = told(trt, linear(), x=trt.float16)
        assert flagged is not None
        builder, made, config, _ = network(trt, linear())
        made.get_output(0).dtype = trt.float16
        config.clear_flag(trt.BuilderFlag.FP16)
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *PROFILE["x"])
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(made, config) is None
        assert "FP16 is not set" in capsys.readouterr().out


def test_strong_types_are_those_of_the_graph(capsys):
    with simulated(tensorrt="11.4.0"), pycuda_context():
        import tensorrt as trt

        assert load(trt, told(trt, linear(), x=trt.float32, y=trt.float32)) is not None
        engine = load(trt, told(trt, linear(), y=trt.float16))
        assert "by inference" in capsys.readouterr().out and engine.get_tensor_dtype("y") == trt.float32
        del engine
    with misuse("was set to HALF", tensorrt="11.4.0"), pycuda_context():
        import tensorrt as trt

        told(trt, linear(), x=trt.float16)


def test_tactic_sources_are_those_of_the_headers(trt):
    config = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR)).create_builder_config()
    release = trt.__version__.split(".")
    number = (
        5 if int(release[0]) in (9, 10) or release[:2] in (["8", "5"], ["8", "6"]) else 3 if release[0] == "8" else 2
    )
    sources = trt.TacticSource.__members__
    assert len(sources) == number and {int(source) for source in sources.values()} == set(range(number))
    on = {name for name, source in sources.items() if config.get_tactic_sources() >> int(source) & 1}
    assert ("CUDNN" in on) == ("CUBLAS" in on) == (release[0] == "8")
    assert config.set_tactic_sources(0) and config.get_tactic_sources() == 0
    assert not config.set_tactic_sources(1 << number) and config.get_tactic_sources() == 0
    assert load(trt, build(trt, linear(), prepare=lambda c: c.set_tactic_sources(0))).tactic_sources == 0


def test_cublas_is_off_on_old_jetsons_and_8_6_keeps_libraries_out():
    for sm, there in ((53, False), (87, True)):
        with simulated(tensorrt="8.2.1", sm=sm):
            import tensorrt as trt

            mask = trt.Builder(trt.Logger()).create_builder_config().get_tactic_sources()
            assert bool(mask >> int(trt.TacticSource.CUBLAS_LT) & 1) == there
    with simulated(tensorrt="8.6.1"), pycuda_context():
        import tensorrt as trt

        external = trt.PreviewFeature.DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805
        masks = [
            load(trt, build(trt, linear(), prepare=lambda c, on=on: c.set_preview_feature(external, on))).tactic_sources
            for on in (True, False)
        ]
        assert [bool(mask >> int(trt.TacticSource.CUDNN) & 1) for mask in masks] == [False, True]


@pytest.mark.parametrize("integrated", [True, False])
def test_libraries_take_a_part_of_the_memory(integrated, capsys):
    """When an engine is built that may use them, and when it is loaded."""
    with simulated(tensorrt="8.2.1", integrated=integrated) as device, pycuda_context():
        import tensorrt as trt

        lean = build(trt, linear(), prepare=lambda c: c.set_tactic_sources(0))
        load(trt, lean)
        assert device.store.account["library"] == 0
        plan = build(trt, linear())
        assert device.store.account["library"] == 640 << 20
        assert device.store.used == (640 << 20 if integrated else 0)
    with simulated(tensorrt="8.2.1", integrated=integrated, memory=600 << 20) as device, pycuda_context():
        import tensorrt as trt

        assert load(trt, lean) is not None and device.store.account["library"] == 0
        assert (load(trt, plan) is None) == (build(trt, linear()) is None) == integrated
        assert ("OUT_OF_MEMORY" in capsys.readouterr().out) == integrated


def test_a_kernel_that_is_missing(trt, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "there", lambda node, network, config: node.op_type != "MatMul")
    assert build(trt, linear()) is None
    assert "Could not find any implementation for node y" in capsys.readouterr().out


def quantised(**changes):
    """x -> Q -> DQ -> y; the weights may be replaced."""
    weights = {"scale": np.float32(0.1), "zero": np.int8(0), **changes}
    nodes = [
        ("QuantizeLinear", ["x", "scale", "zero"], ["q"], {}),
        ("DequantizeLinear", ["q", "scale", "zero"], ["y"], {}),
    ]
    return model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, weights)


@pytest.mark.parametrize("release", BEFORE_10)
def test_int8_must_be_asked_for(release, capsys):
    with simulated(tensorrt=release), pycuda_context():
        import tensorrt as trt

        assert build(trt, quantised()) is None and "int8 is not configured" in capsys.readouterr().out
        assert build(trt, quantised(), prepare=lambda c: c.set_flag(trt.BuilderFlag.INT8)) is not None


# -- the parser


def test_the_parser_takes_buffers(new):
    for wrong in ("model.onnx", None, 5):
        with pytest.raises(TypeError):
            network(new, wrong)
    for damaged in (b"no model", linear()[:40]):
        assert "Failed to parse" in refused(new, damaged)
    with pytest.raises(AssertionError):
        network(new, b"")  # parsed well, and nothing to build


def test_operators_and_opsets_must_be_known():
    shapes = {"x": ["batch", 4]}, {"y": ["batch", 4]}
    for operator, words in (("HardSwish", "no importer registered for op: HardSwish"), ("Relu", "opset 14")):
        data = model([(operator, ["x"], ["y"], {})], *shapes, opset=14)
        assert words in judged("8.2.1", data)
        assert judged("10.16.1", data) == ""


def test_types_must_be_known(new):
    for kind in (TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8):
        shape = (["batch", 4], kind)
        data = model([("Identity", ["x"], ["y"], {})], {"x": shape}, {"y": shape})
        assert "date type" in refused(new, data)  # sic


def test_quantisation_is_symmetric_and_of_floats(trt):
    major = int(trt.__version__.split(".")[0])
    assert "symmetric" in refused(trt, quantised(zero=np.int8(3)))
    assert "positive" in refused(trt, quantised(scale=np.float32(0)))
    bias = model(
        [("DequantizeLinear", ["b", "scale"], ["d"], {}), ("Add", ["x", "d"], ["y"], {})],
        {"x": ["batch", 4]},
        {"y": ["batch", 4]},
        {"b": np.ones(4, np.int32), "scale": np.float32(0.1)},
    )
    assert ("3 inputs" if major < 10 else "INT32 bias must stay float") in refused(trt, bias)


@pytest.mark.parametrize("release", ["8.2.1", "8.5.2"])
@pytest.mark.parametrize("sm, builds", [(53, False), (62, False), (72, True), (87, True)])
def test_int8_wants_hardware_for_it(release, sm, builds, capsys):
    with simulated(tensorrt=release, sm=sm), pycuda_context():
        import tensorrt as trt

        plan = build(trt, quantised(), prepare=lambda config: config.set_flag(trt.BuilderFlag.INT8))
        assert (plan is not None) == builds
        assert build(trt, linear()) is not None
    assert ("require hardware with Int8 support" in capsys.readouterr().out) != builds


def test_quantised_kernels_are_floats_with_quantisers_before_10():
    image, scales = {"x": ["batch", 1, 4, 4]}, {"scale": np.float32(0.1), "zero": np.int8(0)}
    quantisers = [("QuantizeLinear", ["k", *scales], ["q"], {}), ("DequantizeLinear", ["q", *scales], ["d"], {})]
    conv = ("Conv", ["x", "d"], ["y"], {})
    floats = model([*quantisers, conv], image, {"y": image["x"]}, {"k": np.ones((1, 1, 1, 1), np.float32), **scales})
    bytes_ = model([quantisers[1], conv], image, {"y": image["x"]}, {"q": np.ones((1, 1, 1, 1), np.int8), **scales})
    for release in RELEASES:
        assert judged(release, floats) == ""
        assert ("INT8 constants" in judged(release, bytes_)) == (release in BEFORE_10)


def test_8_2_reads_bounds_of_clip_as_float32():
    shape = (["batch", 4], FLOAT16)
    bounds = {"low": np.float16(0), "high": np.float16(6)}
    clip = model([("Clip", ["x", *bounds], ["y"], {})], {"x": shape}, {"y": shape}, bounds)
    assert "reads float16 bounds as float32" in judged("8.2.1", clip)
    assert judged("8.6.1", clip) == ""


FLOATS, NUMBERS, TRUTHS = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL)
FROM_8_5, FROM_8_6, FROM_10 = (RELEASES[RELEASES.index(r) :] for r in ("8.5.2", "8.6.1", "10.3.0"))


@pytest.mark.parametrize(
    ("node", "kind", "words", "taken"),
    [
        (("ArgMax", ["x"], ["m"], {"axis": 1}), FLOATS, "", RELEASES),
        (("ArgMax", ["x"], ["m"], {"axis": 1}), NUMBERS, "ArgMax takes .*, not INT32", FROM_8_6),
        (("Cast", ["x"], ["m"], {"to": NUMBERS}), TRUTHS, "", RELEASES),
        (("Cast", ["x"], ["m"], {"to": TRUTHS}), FLOATS, "converts from BOOL, but not to it", FROM_8_5),
        (("Equal", ["x", "x"], ["m"], {}), NUMBERS, "", RELEASES),
        (("Equal", ["x", "x"], ["m"], {}), TRUTHS, "Equal takes .*, not BOOL", []),
        (("And", ["x", "x"], ["m"], {}), TRUTHS, "", RELEASES),
        (("And", ["x", "x"], ["m"], {}), NUMBERS, "And takes BOOL, not INT32", []),
        (("ReduceMean", ["x"], ["m"], {}), NUMBERS, "ReduceMean takes .*, not INT32", FROM_10),
    ],
)
def test_operators_take_the_types_of_their_release(node, kind, words, taken):
    nodes = [node, ("Cast", ["m"], ["y"], {"to": FLOATS})]
    data = model(nodes, {"x": (["batch", 4], kind)}, {"y": [None, None]})
    for release in RELEASES:
        found = judged(release, data)
        assert (found == "") == (release in taken), (release, found)
        assert not found or re.search(words, found), found


def test_what_importers_ask_of_attributes(trt):
    image = {"x": ["batch", 1, 4, 4]}
    resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales = {"s": np.float32([1, 1, 2, 2])}

    def resized(**changes):
        nodes = [("Resize", ["x", "", "s"], ["y"], {**resize, **changes})]
        return model(nodes, image, {"y": ["batch", 1, 8, 8]}, scales)

    build(trt, resized(), ({"x": ((1, 1, 4, 4),) * 3},))
    assert "tf_crop_and_resize" in refused(trt, resized(coordinate_transformation_mode="tf_crop_and_resize"))
    pool = [("MaxPool", ["x"], ["y", "i"], {"kernel_shape": [2, 2]})]
    assert "indices" in refused(trt, model(pool, image, {"y": ["batch", 1, 3, 3]}))
    ends = {"starts": np.int64([0]), "ends": np.int64([2])}
    shapes = {"x": ["batch", 4], "axes": ([1], TensorProto.INT32)}
    nodes = [("Cast", ["axes"], ["a"], {"to": TensorProto.INT64}), ("Slice", ["x", *ends, "a"], ["y"], {})]
    assert "must be an initializer" in refused(trt, model(nodes, shapes, {"y": [None, None]}, ends))


def test_constants_must_be_constant():
    shapes = {"x": ["batch", 4], "axes": (["n"], TensorProto.INT32)}
    nodes = [("Cast", ["axes"], ["a"], {"to": TensorProto.INT64}), ("Unsqueeze", ["x", "a"], ["y"], {})]
    assert "must be an initializer" in judged("8.2.1", model(nodes, shapes, {"y": ["batch", 1, 4]}))
    image = {"x": ["batch", 1, 4, 4]}
    conv = model([("Conv", ["x", "k"], ["y"], {})], {**image, "k": [1, 1, 1, 1]}, {"y": image["x"]})
    assert "kernel" in judged("8.2.1", conv)


# -- layouts, timing cache, memory


@pytest.mark.parametrize("layout, kind, fits", [
    ("LINEAR", TensorProto.FLOAT, True), ("HWC", TensorProto.FLOAT, True), ("HWC8", TensorProto.FLOAT, False),
    ("HWC8", FLOAT16, True), ("CHW2", FLOAT16, True), ("HWC", FLOAT16, False), ("DHWC8", FLOAT16, False),
])  # fmt: skip
def test_layouts_belong_to_types(trt, layout, kind, fits):
    plan = build(trt, doubled(kind), (IMAGES,), layout)
    assert (plan is not None) == fits
    if plan is not None:
        engine = load(trt, plan)
        named = hasattr(engine, "get_tensor_format")
        assert (engine.get_tensor_format("x") if named else engine.get_binding_format(0)).name == layout


def test_layouts_need_three_dimensions(new, capsys):
    assert build(new, linear(FLOAT16), layout="HWC8") is None
    assert "supported formats" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["LINEAR", *formats.LAYOUTS])
def test_layouts_are_those_of_the_headers(layout):
    array = np.arange(2 * 5 * 2 * 3, dtype=np.float16).reshape(2, 5, 2, 3)
    raw = formats.pack(layout, array)
    assert len(raw) == formats.nbytes(layout, "HALF", array.shape)
    assert (formats.unpack(layout, raw, "HALF", array.shape) == array).all()
    stored = raw.view(np.float16).reshape(formats.stored_shape(layout, array.shape))
    places = {"LINEAR": array[1, 4, 1, 2], "HWC8": stored[1, 1, 2, 4] if layout == "HWC8" else None,
              "CHW2": stored[1, 2, 1, 2, 0] if layout == "CHW2" else None}  # fmt: skip
    assert places.get(layout, array[1, 4, 1, 2]) == array[1, 4, 1, 2]
    assert np.isnan(stored).sum() == stored.size - array.size  # padding


def test_the_timing_cache_grows_and_belongs_to_a_device(trt):
    caches = []

    def with_cache(config):
        caches.append(config.create_timing_cache(caches[-1] if caches else b""))
        assert config.set_timing_cache(caches[-1], False)

    for data in (linear(), doubled()):
        build(trt, data, (PROFILE if data == linear() else IMAGES,), prepare=with_cache)
        caches[-1] = bytes(caches[-1].serialize())
    assert len(caches[0]) < len(caches[1])
    config = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR)).create_builder_config()
    assert config.create_timing_cache(b"garbage") is None
    foreign = config.create_timing_cache(caches[1].replace(b'"sm": 87', b'"sm": 72'))
    assert not config.set_timing_cache(foreign, False)
    assert config.set_timing_cache(foreign, True)


def test_building_needs_memory_and_a_context(capsys):
    weights = {"w": np.ones((4, 1 << 17), np.float32)}
    data = model([("MatMul", ["x", "w"], ["y"], {})], {"x": ["batch", 4]}, {"y": ["batch", 1 << 17]}, weights)
    with simulated(memory=1 << 20), pycuda_context():
        import tensorrt as trt

        assert build(trt, data) is None and "OUT_OF_MEMORY" in capsys.readouterr().out
    with simulated():
        import tensorrt as trt

        assert build(trt, linear()) is None and "NOT_INITIALIZED" in capsys.readouterr().out


def test_inputs_that_nothing_reads_are_dropped_before_10(trt):
    data = model([("Relu", ["x"], ["y"], {})], {"x": ["batch", 4], "z": [1]}, {"y": ["batch", 4]})
    engine = load(trt, build(trt, data))
    number = engine.num_io_tensors if hasattr(engine, "num_io_tensors") else engine.num_bindings
    assert number == (2 if trt.__version__.startswith("8.") else 3)
