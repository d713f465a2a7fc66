"""What ``da3 train`` and ``da3 export`` do, from Python: adapt the embedded backbone to a folder of photos.

python examples/train_and_export.py mydomain path/to/photos out/
"""

from __future__ import annotations

import sys
from pathlib import Path

from da3.export import export_domain
from da3.toolchain.training import ConsoleReporter, TrainOptions
from da3.toolchain.training.train import train


def main(domain: str, photos: str, out: Path, epochs: int = 15) -> None:
    options = TrainOptions(
        domain=domain, data=photos, runs=out / "runs", weights="demo", epochs=epochs, keep=0.8, resume=True
    )
    with ConsoleReporter() as reporter:
        result = train(options, reporter)  # goes on where an earlier call stopped
    assert result.best is not None
    exported = export_domain(domain, out / "runs", out / "bundle")
    worst = max(check.error for check in exported.checks)
    print(f"{result.best['val_accuracy']:.0%} right; {exported.path}, within {worst:.0e} of PyTorch")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:5]))
