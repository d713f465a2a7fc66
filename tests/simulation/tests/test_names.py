"""The doubles have exactly the names of the release that they imitate, and go away when the simulation ends."""

import importlib
import json
import sys

import pytest

from .. import CUDA, RELEASES, NotSimulated, simulated
from ..tensorrt import api
from ..tensorrt.api import Api
from .helpers import build, linear, load, network, pycuda_context

APIS = {release: Api(release) for release in RELEASES}


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_has_its_names_and_no_other(release):
    own = APIS[release]
    with simulated(tensorrt=release):
        trt = importlib.import_module("tensorrt")
        assert trt.__version__ == own.version
        assert all(hasattr(trt, name) for name in own.top)
        for other in APIS.values():
            for name in other.top - own.top:
                with pytest.raises(AttributeError, match=release):
                    getattr(trt, name)
            for kind in own.classes:
                made = getattr(trt, kind)
                assert all(hasattr(made, name) for name in own.classes[kind])
                for name in other.classes[kind] - own.classes[kind]:
                    with pytest.raises(AttributeError, match=release):
                        getattr(made, name)
            for kind in other.enums.keys() & own.enums.keys() & own.top:
                for name in other.enums[kind].keys() - own.enums[kind].keys():
                    assert not hasattr(getattr(trt, kind), name)


def test_what_older_releases_lack():
    """Names that were read in the release's own bindings, each beside a neighbour that has or lacks it."""
    networks = {release: own.classes["INetworkDefinition"] for release, own in APIS.items()}
    for name, since in (("add_plugin_v3", "10.3.0"), ("add_squeeze", "10.13.3"), ("add_moe", "10.16.1")):
        assert [name in networks[r] for r in RELEASES] == [r in RELEASES[RELEASES.index(since) :] for r in RELEASES]
    assert "FP4" in APIS["10.13.3"].enums["DataType"] and "FP4" not in APIS["10.3.0"].enums["DataType"]
    assert "IStreamReader" in APIS["10.3.0"].top and "IStreamReaderV2" not in APIS["10.3.0"].top
    for twin, release in (("8.5.2", "8.5.3"), ("8.6.2", "8.6.1")):
        assert vars(APIS[twin]).keys() == vars(APIS[release]).keys()
        differ = {key for key, value in vars(APIS[twin]).items() if value != vars(APIS[release])[key]}
        assert differ == {"release", "version", "number"}


def test_a_name_that_is_taken_away_must_be_there(tmp_path, monkeypatch):
    source = json.loads((api.FOLDER / "tensorrt-10.13.3.json").read_text())
    (tmp_path / "tensorrt-10.16.1.json").write_bytes((api.FOLDER / "tensorrt-10.16.1.json").read_bytes())
    monkeypatch.setattr(api, "FOLDER", tmp_path)
    for gone in ({"top": ["Bulider"]}, {"classes": {"Builder": ["biuld"]}}, {"enums": {"DataType": ["FP44"]}}):
        (tmp_path / "tensorrt-10.13.3.json").write_text(json.dumps({**source, "without": gone}))
        with pytest.raises(ValueError, match="not among the names: ."):
            Api("10.13.3")


def test_what_is_not_imitated_says_so_when_it_is_used():
    with simulated(tensorrt="8.6.1"):
        import tensorrt as trt

        assert hasattr(trt, "Refitter") and hasattr(trt.Builder, "max_threads")
        with pytest.raises(NotSimulated, match="Refitter"):
            trt.Refitter(None, None)
        builder = trt.Builder(trt.Logger())
        with pytest.raises(NotSimulated, match="max_threads"):
            builder.max_threads = 2


def test_objects_refuse_attributes_of_other_releases():
    with simulated(tensorrt="10.16.1"):
        import tensorrt as trt

        config = trt.Builder(trt.Logger()).create_builder_config()
        with pytest.raises(AttributeError, match=r"10\.16\.1"):
            config.max_workspace_size = 1 << 20
        with pytest.raises(AttributeError):
            config.num_optimization_profiles = 2


def test_only_builder_parser_and_runtime_can_be_made():
    with simulated():
        import tensorrt as trt

        for kind in ("ICudaEngine", "IExecutionContext", "INetworkDefinition", "IBuilderConfig", "ITensor"):
            with pytest.raises(TypeError, match="No constructor"):
                getattr(trt, kind)()


def test_enums_are_those_of_pybind11():
    with simulated():
        import tensorrt as trt

        half = trt.DataType.HALF
        assert half == trt.float16 and half != trt.float32 and half != 1 and int(half) == 1
        assert (half.name, half.itemsize, {half: 1}[trt.float16]) == ("HALF", 2, 1)
        assert trt.Logger.ERROR != 1 and trt.ILogger.WARNING >= trt.Logger.ERROR  # py::arithmetic
        for wrong in (lambda: 1 << trt.TensorFormat.HWC8, lambda: trt.Logger.ERROR < 2, lambda: half < half):
            with pytest.raises(TypeError):
                wrong()


def test_host_memory_is_a_buffer_and_nothing_else():
    with simulated(), pycuda_context():
        import tensorrt as trt

        builder, net, config, _ = network(trt, linear())
        config.clear_flag(trt.BuilderFlag.FP16)
        profile = builder.create_optimization_profile()
        profile.set_shape("x", (1, 4), (1, 4), (1, 4))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(net, config)
        assert plan and len(bytes(plan)) == plan.nbytes and load(trt, plan) is not None
        for wrong in (len, list, lambda p: p[:3], lambda p: p + b"", lambda p: p.decode()):
            with pytest.raises((TypeError, AttributeError)):
                wrong(plan)


def test_dims_are_no_tuples():
    with simulated(), pycuda_context():
        import tensorrt as trt

        shape = load(trt, build(trt, linear())).get_tensor_shape("x")
        assert shape == (-1, 4) and shape == [-1, 4] and len(shape) == 2 and shape[1:] == (4,)
        assert not isinstance(shape, tuple)
        for wrong in (lambda: hash(shape), lambda: shape == trt.Dims((-1, 4)), lambda: trt.Dims((1.0,))):
            with pytest.raises(TypeError):
                wrong()


def test_a_logger_must_be_built_by_its_base():
    with simulated():
        import tensorrt as trt

        class Forgetful(trt.ILogger):
            def __init__(self):
                pass

        with pytest.raises(TypeError, match="__init__"):
            trt.Builder(Forgetful())
        with pytest.raises(TypeError, match="ILogger"):
            trt.Builder(print)


@pytest.mark.parametrize("cuda", CUDA)
def test_only_the_simulated_packages_are_installed(cuda):
    before = dict(sys.modules)
    with simulated(cuda=cuda):
        assert importlib.import_module("tensorrt").__doc__.startswith("A simulation of TensorRT")
        missing = ["cuda.bindings.driver", "cuda.cuda"] if cuda == "pycuda" else ["pycuda.driver"]
        missing += {"cuda-python 13.0": ["cuda.cuda"], "cuda-python 11.8": ["cuda.bindings.driver"]}.get(cuda, [])
        for name in missing:
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(name)
    assert {n for n in sys.modules if n.split(".")[0] in ("tensorrt", "pycuda", "cuda")} <= before.keys()


def test_a_package_may_be_absent():
    with simulated(tensorrt=None, cuda=None):
        for name in ("tensorrt", "pycuda", "cuda"):
            with pytest.raises(ModuleNotFoundError, match=name):
                importlib.import_module(name)


@pytest.mark.parametrize("driver, gpu, code", [("present", None, 100), ("old", "Orin", 35), ("missing", "Orin", 35)])
def test_without_a_usable_gpu_tensorrt_makes_nothing(driver, gpu, code, capsys):
    with simulated(gpu=gpu, driver=driver):
        import tensorrt as trt

        for kind in (trt.Builder, trt.Runtime):
            with pytest.raises(TypeError, match="factory function returned nullptr"):
                kind(trt.Logger())
    assert f"CUDA initialization failure with error: {code}" in capsys.readouterr().out


def test_errors_of_the_program_are_not_hidden_by_the_report():
    with pytest.raises(ZeroDivisionError), simulated() as device:
        device.error("something else")
        raise ZeroDivisionError
