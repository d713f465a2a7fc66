"""A bundle of a backbone alone, to which domains are added later: what an engine learns domains on."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from da3.export.domain import DomainFacts, load_domain, trained_domain
from da3.export.exporter import SCRATCH, appeared
from da3.export.golden import with_backbone_goldens
from da3.export.segments import deploy
from da3.export.verify import require, verify
from da3.runtime import Runtime
from da3.runtime.bundle import Bundle, domain_files, write_files
from da3.runtime.errors import BundleError
from da3.runtime.system import exchange, scratch_folder
from da3.runtime.training import AdaptorSpec
from da3.toolchain.backbones import WeightsFile, preprocessing_of
from da3.toolchain.methods import Task, method
from da3.toolchain.network import DomainModel

_TRIED = DomainFacts("tried", ("one", "two", "three"), {})
_PHOTOS = 2


def export_backbone(arch: str, weights: WeightsFile, size: int, adaptor: AdaptorSpec, path: Path) -> None:
    """Write the bundle to ``path``, in the place of what is there, for images of ``size`` pixels and domains of the
    shape ``adaptor``.

    It is verified as every export is, with a domain of random numbers, before it is moved into place. Raises
    VerificationError.
    """
    task = Task(arch=arch, size=size, classes=len(_TRIED.classes), flops_budget=1.0, adaptor=adaptor)
    model = method("da3")(task, weights).model
    assert isinstance(model, DomainModel)
    preprocessing = preprocessing_of(size, weights)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.02, generator=draws)
    record = trained_domain(model, _TRIED, None)
    load_domain(model, record)
    pixels = torch.randint(0, 256, (_PHOTOS, size, size, 3), generator=draws, dtype=torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(str(path.parent), SCRATCH) as scratch:
        home, pack = Path(scratch) / "bundle", Path(scratch) / _TRIED.name
        write_files(home, with_backbone_goldens(deploy(model, preprocessing)).every_file())
        write_files(pack, domain_files(record))
        with Bundle(home, may_store=False) as opened, Runtime(opened) as runtime:
            require(verify(model, record, opened, runtime, runtime.load(pack), preprocessing.normalise(pixels)))
        if _is_good(path):
            return  # another process was faster, and may be using it
        if path.exists() and not exchange(str(home), str(path)):
            shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            appeared(home, path)


def _is_good(path: Path) -> bool:
    try:
        with Bundle(path, may_store=False) as bundle:
            bundle.verify()
    except BundleError:
        return False
    return True
