"""The process that makes a backbone's bundle: ``python -m da3.toolchain.learning.bundle_process``, see ``Worker``.

It imports PyTorch, which takes more memory than learning does; so it ends before learning begins.
"""

from __future__ import annotations

from pathlib import Path

from da3.export import export_backbone
from da3.runtime.training import AdaptorSpec
from da3.toolchain.backbones import NAMES, load_weights
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning.bundles import bundle_path, is_whole
from da3.toolchain.methods import adaptor_spec
from da3.toolchain.process import Answer, Say, serve
from da3.toolchain.training import BackboneStore


def _work(request: Answer, say: Say) -> None:
    runs = Path(request["runs"])
    store = BackboneStore(runs)
    wanted: str = request.get("sha256", "")  # of a run that is begun, or of what one starts from
    arch = request["arch"]
    if arch is None:
        found = store.find(wanted)
        if found is None:
            raise TrainingError(
                f"the backbone {wanted[:12]}... is not in {store.folder}: say which it is with --backbone and --weights"
            )
        arch = found[0]
    if arch not in NAMES:
        raise TrainingError(f"--backbone {arch}: known are {', '.join(NAMES)}")
    weights = store.get(arch, wanted) if request["weights"] is None else load_weights(request["weights"], arch)
    sha256 = weights.sha256(arch)
    if wanted not in ("", sha256):
        raise TrainingError(
            f"--weights {request['weights']}: other weights than this run, or the domain it starts from, was trained on"
        )
    size = request["size"] or weights.input_size
    given = request.get("adaptor")
    adaptor = adaptor_spec(arch, weights, size) if given is None else AdaptorSpec.from_json(given)
    path = bundle_path(runs, arch, sha256, size, adaptor)
    if not is_whole(path, sha256):
        export_backbone(arch, weights, size, adaptor, path)
    store.put(arch, weights)
    say({"bundle": str(path)})


if __name__ == "__main__":
    serve(_work)
