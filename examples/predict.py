"""Run two domains of one bundle on the same photos: the Python runtime API in a page.

python examples/predict.py demo-out/bundle digits glyphs demo-out/photos/digits/val/3
"""

from __future__ import annotations

import sys

from da3.runtime import Runtime


def main(bundle: str, first: str, second: str, photos: str) -> None:
    with Runtime(bundle) as runtime:  # opens the one backbone that all domains share
        for name in (first, second):
            runtime.use(name)  # loaded the first time, then a switch: no engine is built, no weight copied
            for prediction in runtime.run(photos)[:3]:
                where = "ran to the end" if prediction.exit is None else f"left at exit {prediction.exit}"
                print(
                    f"{name}: {prediction.label} ({prediction.probability:.0%}), {where}, "
                    f"{prediction.blocks_skipped} of {len(prediction.blocks)} blocks skipped, "
                    f"{prediction.flops_share:.0%} of the block FLOPs run"
                )


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
