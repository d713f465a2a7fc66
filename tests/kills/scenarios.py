"""The commands that are killed, each with what it begins with, and what must hold when it was killed, and afterwards.

They are called as the command line calls them, in a process of their own for each.
"""

import json
import os
import shutil
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "runtime")]

import synthetic_bundle  # noqa: E402
import torch  # noqa: E402
from conftest import write_photos  # noqa: E402
from simulation import simulated  # noqa: E402

from da3.calib import calibrate, calibrate_int8  # noqa: E402
from da3.export import export_backbone, export_domain  # noqa: E402
from da3.runtime.bundle import Bundle, add_pack, put_domain, read_domain, read_pack, write_pack  # noqa: E402
from da3.runtime.learning import LearnOptions, learn  # noqa: E402
from da3.runtime.serving import RUNTIME, Repository, Settings  # noqa: E402
from da3.runtime.training import RUN_FILES, Reporter  # noqa: E402
from da3.runtime.training.checkpoint import read  # noqa: E402
from da3.runtime.trt.build import build_engines  # noqa: E402
from da3.runtime.trt.store import read_plan, read_sets  # noqa: E402
from da3.toolchain.backbones import load_weights  # noqa: E402
from da3.toolchain.curves import history  # noqa: E402
from da3.toolchain.methods import adaptor_spec  # noqa: E402
from da3.toolchain.training.options import TrainOptions  # noqa: E402
from da3.toolchain.training.progress import SilentReporter  # noqa: E402
from da3.toolchain.training.train import train  # noqa: E402
from kills.trees import learnt, tree  # noqa: E402

history.draw_elsewhere = lambda path, runs: path.write_bytes(b"")  # it takes most of the time of a run this small
torch.set_num_threads(1)
_TRAINING = {"data": None, "weights": "demo", "size": 32, "epochs": 2, "batch_size": 8, "workers": 1}
NOT_KEPT = ("engines", ".lock")


def prepare(folder):
    """Photos, a finished run, two bundles with its domain, and a bare backbone: what scenarios begin with. Long."""
    write_photos(folder / "photos")
    train(_options(folder, "earlier", seed=7, epochs=1), SilentReporter())
    train(_options(folder, "signs"), SilentReporter())
    export_domain("earlier", folder / "runs", folder / "bundle")
    export_domain("signs", folder / "runs", folder / "bundle")
    write_pack(folder / "bundle", "signs", folder / "signs.da3")
    calibrate_int8(folder / "bundle", {"earlier": folder / "photos"})
    weights = load_weights("demo", "mobilenet_v2")
    export_backbone("mobilenet_v2", weights, 32, adaptor_spec("mobilenet_v2", weights, 32), folder / "bare")
    synthetic_bundle.write_bundle(folder / "synthetic")
    with simulated(tensorrt="10.16.1", cuda="cuda-python 12.6"):
        build_engines(folder / "synthetic")


def _options(home, domain, **changes):
    given = {**_TRAINING, "data": str(Path(os.environ["DA3_KILLS"]) / "photos"), **changes}
    return TrainOptions(domain=domain, runs=home / "runs", **given)


class Scenario:
    """A command. made: the folder of `prepare`; home: a scenario's own copy of what it needs."""

    def __init__(self, made):
        self.made = made

    def begin(self, home):
        """Make the folder as it is before the command."""

    def command(self, home):
        raise NotImplementedError

    def again(self, home):
        """What a user does after the command was killed."""
        self.command(home)

    def killed(self, home):
        """AssertionError where something is lost or half-written."""

    def result(self, home):
        """What must be the same whether it was killed or not."""
        return tree(home, NOT_KEPT)

    def left(self, home):
        """Names of all files: none may be there that the command alone does not leave."""
        return sorted(tree(home))


def check_run(folder):
    for name in ("last.safetensors", "best.safetensors"):
        if (folder / name).exists():
            read(folder / name)


class Train(Scenario):
    """A new run."""

    def command(self, home):
        assert train(_options(home, "signs"), SilentReporter()).finished

    def again(self, home):
        assert train(_options(home, "signs", resume=True), SilentReporter()).finished

    def killed(self, home):
        check_run(home / "runs" / "signs")

    def result(self, home):
        folder = home / "runs" / "signs"
        rows = [json.loads(line)["val_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert {path.name for path in folder.iterdir()} == set(RUN_FILES)
        return [learnt(folder / name) for name in ("last.safetensors", "best.safetensors")], rows


class TrainOverwrite(Train):
    """A run in the place of a finished one, of other photos and of another length."""

    def begin(self, home):
        shutil.copytree(self.made / "runs", home / "runs")
        shutil.rmtree(home / "runs" / "signs")
        os.rename(home / "runs" / "earlier", home / "runs" / "signs")

    def command(self, home):
        assert train(_options(home, "signs", overwrite=True), SilentReporter()).finished

    def again(self, home):
        last = home / "runs" / "signs" / "last.safetensors"
        old = last.exists() and read(last).config.seed == 7
        if old:  # untouched: the whole of it can be gone on with, and exported
            there = [name for name in os.listdir(last.parent) if not name.startswith(".")]
            assert sorted(there) == sorted(os.listdir(self.made / "runs" / "earlier"))
            assert learnt(last) == learnt(self.made / "runs" / "earlier" / "last.safetensors")
            self.command(home)
        else:
            super().again(home)


class Learn(Scenario):
    """A domain learnt by the engine, into a bundle."""

    def begin(self, home):
        shutil.copytree(self.made / "bare", home / "bundle")

    def _learn(self, home, **changes):
        options = LearnOptions(
            domain="signs",
            photos=str(self.made / "photos"),
            bundle=str(home / "bundle"),
            runs=str(home / "runs"),
            **{"epochs": 1, "batch_size": 8, "micro_batch": 8, "threads": 1, "workers": 1, "seed": 3, **changes},
        )
        assert learn(options, Reporter()).domain is not None

    def command(self, home):
        self._learn(home)

    def again(self, home):
        self._learn(home, resume=True)

    def killed(self, home):
        check_run(home / "runs" / "signs")
        with Bundle(home / "bundle") as bundle:
            bundle.verify()

    def result(self, home):
        with Bundle(home / "bundle") as bundle:
            bundle.verify()
            weights = {name: array.tobytes() for name, array in read_domain(bundle, "signs").weights.items()}
        return [learnt(home / "runs" / "signs" / name) for name in ("last.safetensors", "best.safetensors")], weights


class ExportNew(Scenario):
    """A bundle that is not there yet."""

    def command(self, home):
        export_domain("signs", self.made / "runs", home / "bundle")

    def killed(self, home):
        if (home / "bundle").exists():
            with Bundle(home / "bundle") as bundle:
                bundle.verify()
                assert bundle.domains == ["signs"]


class ExportAgain(Scenario):
    """A domain of a bundle replaced."""

    def begin(self, home):
        shutil.copytree(self.made / "bundle", home / "bundle")
        with Bundle(home / "bundle") as bundle:
            put_domain(bundle, read_domain(bundle, "earlier")._replace(name="signs"))

    def command(self, home):
        export_domain("signs", self.made / "runs", home / "bundle")

    def killed(self, home):
        with Bundle(home / "bundle") as bundle:
            bundle.verify()
            assert bundle.domains == ["earlier", "signs"]


class AddReplace(ExportAgain):
    """`domains add --replace`."""

    def command(self, home):
        add_pack(home / "bundle", self.made / "signs.da3", replace=True)


class CalibrateExits(Scenario):
    def begin(self, home):
        shutil.copytree(self.made / "bundle", home / "bundle")

    def command(self, home):
        calibrate(home / "bundle", "signs", self.made / "photos", max_drop=100)

    def killed(self, home):
        with Bundle(home / "bundle") as bundle:
            bundle.verify()
            assert bundle.domains == ["earlier", "signs"] and "backbone/int8.json" in bundle.manifest.files


class CalibrateInt8(CalibrateExits):
    """Ranges in the place of earlier ones."""

    def command(self, home):
        calibrate_int8(home / "bundle", {"signs": self.made / "photos"}, depthwise=True)


class Build(Scenario):
    """Engines, on the simulated TensorRT: some of an earlier build, all of which `--force` builds again."""

    def begin(self, home):
        shutil.copytree(self.made / "synthetic", home / "bundle")

    def command(self, home):
        with simulated(tensorrt="10.16.1", cuda="cuda-python 12.6"):
            build_engines(home / "bundle", force=True)

    def again(self, home):
        with simulated(tensorrt="10.16.1", cuda="cuda-python 12.6"):
            build_engines(home / "bundle")

    def killed(self, home):
        assert self._engines(home), "the engines of before are gone"

    def result(self, home):
        return self._engines(home)

    def _engines(self, home):
        (found,) = read_sets(str(home / "bundle" / "engines"))
        assert len(found.engines) == found.total
        return sorted((identity, read_plan(found, identity)) for identity in found.engines)


class BuildNew(Build):
    """Engines where there are none."""

    def begin(self, home):
        ignore = shutil.ignore_patterns("engines")
        shutil.copytree(self.made / "synthetic", home / "bundle", ignore=ignore)

    def killed(self, home):
        for found in read_sets(str(home / "bundle" / "engines")):
            for identity in found.engines:
                read_plan(found, identity)


class PackTriton(Scenario):
    """A served domain replaced, and what all share written anew."""

    def begin(self, home):
        shutil.copytree(self.made / "bundle", home / "bundle")
        with Bundle(home / "bundle") as bundle:
            put_domain(bundle, read_domain(bundle, "earlier")._replace(name="signs"))
        self._pack(home, home / "bundle", b"a runtime")

    def command(self, home):
        self._pack(home, self.made / "bundle", b"a newer runtime")

    def _pack(self, home, bundle, run_engine):
        repository = Repository(home / "served")
        repository.write_runtime(bundle, Settings(threads=1), run_engine)
        for name in ("earlier", "signs"):
            repository.put(name, bundle)

    def killed(self, home):
        self._packs(home)

    def result(self, home):
        served = home / "served"
        shared = tree(served / "models" / RUNTIME), tree(served / "store" / "bundle", NOT_KEPT)
        labels = {name: (served / "models" / name / "labels.txt").read_text() for name in ("earlier", "signs")}
        return shared, labels, self._packs(home)

    def left(self, home):
        # A number that was used up is given no more: packs may be called otherwise.
        names = [name for name in super().left(home) if not name.endswith(".da3")]
        return names, len(os.listdir(home / "served" / "store" / "packs"))

    def _packs(self, home):
        """Triton finds whole models alone, each with its pack."""
        repository = Repository(home / "served")
        assert sorted(os.listdir(repository.models)) == [RUNTIME, "earlier", "signs"]
        assert {path.name for path in Path(repository.models, RUNTIME).iterdir()} == {"1", "config.pbtxt"}
        with Bundle(repository.bundle) as bundle:
            bundle.verify()
        found = {}
        for name in ("earlier", "signs"):
            number = json.loads(Path(repository.models, name, "1", "da3.json").read_text())["number"]
            pack = Path(repository.store, "packs", f"{number}.da3")
            assert read_pack(pack).name == name
            found[name] = pack.read_bytes()
        return found


SCENARIOS = {
    "train": (Train, TrainOverwrite),
    "learn": (Learn,),
    "export": (ExportNew, ExportAgain),
    "add --replace": (AddReplace,),
    "calibrate": (CalibrateExits, CalibrateInt8),
    "build": (BuildNew, Build),
    "pack --triton": (PackTriton,),
}
