"""The bundle of a fleet's domains: ``python -m da3.toolchain.fleet.bundle_process``, which ``train_fleet`` starts.

The request has ``runs`` and ``packs`` (folders, or URIs with ``cache``), ``domains``, in the order in which they are
added, and ``bundle``, the folder, or with ``zip`` the URI, that it is written to. It says ``done``.
"""

from __future__ import annotations

from pathlib import Path

from da3.export import export_domain
from da3.runtime.bundle import MANIFEST, add_pack
from da3.runtime.system import scratch_folder
from da3.toolchain.fleet.mirror import Mirror, put_file
from da3.toolchain.fleet.photo_cache import bring_file
from da3.toolchain.fleet.places import below, is_uri
from da3.toolchain.process.worker import Answer, Say, serve


def _work(request: Answer, say: Say) -> None:
    runs, packs, bundle = request["runs"], request["packs"], request["bundle"]
    if not is_uri(bundle):
        _make(Path(runs), [(name, Path(packs, f"{name}.da3")) for name in request["domains"]], Path(bundle), say)
        return
    cache = Path(request["cache"]).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    with scratch_folder(str(cache), ".bundle-") as scratch:
        Mirror(Path(scratch), runs, request["domains"][0]).restore()
        brought = [(name, bring_file(below(packs, f"{name}.da3"), cache)) for name in request["domains"]]
        folder = Path(scratch) / "bundle"
        _make(Path(scratch), brought, folder, say)
        put_file(_zipped(folder, Path(scratch) / "bundle.zip"), bundle)


def _make(runs: Path, packs: list[tuple[str, Path]], bundle: Path, say: Say) -> None:
    """Add the packs to a bundle, which is made of the first one's run if it is not there."""
    if not (bundle / MANIFEST).exists():
        export_domain(packs[0][0], runs, bundle)
    for done, (_, pack) in enumerate(packs, 1):
        add_pack(bundle, pack, replace=True)
        say({"done": done})


def _zipped(folder: Path, path: Path) -> Path:
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


if __name__ == "__main__":
    serve(_work)
