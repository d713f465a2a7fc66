"""What `run-engine` prints of a run: for people, and as JSON."""

from typing import Any, Dict, List

from ..errors import printable
from ..system.percentiles import percentiles_ms
from .predict import Run


def as_json(run: Run, top_k: int = 1) -> Dict[str, Any]:
    """The object that `--json` prints."""
    rows: List[Dict[str, Any]] = []
    for path, prediction in run.predictions:
        row: Dict[str, Any] = {
            "path": path,
            "label": prediction.label,
            "probability": prediction.probability,
            "blocks_run": prediction.blocks_run,
            "blocks_skipped": prediction.blocks_skipped,
            "exit": prediction.exit,
            "known": prediction.known,
            "familiarity": prediction.familiarity,
        }
        if top_k > 1:
            row["top_k"] = [{"label": label, "probability": p} for label, p in prediction.top_k(top_k)]
        rows.append(row)
    return {
        "predictions": rows,
        "latency_ms": percentiles_ms(run.batch_s),
        "flops_share": run.flops_share,
        "exits": run.exits,
        "batch_size": run.batch_size,
        "images_per_second": run.images_per_second,
        "domain": run.domain,
        "skipped_files": [{"path": path, "error": error} for path, error in run.failed],
    }


def render(run: Run, top_k: int = 1) -> str:
    """A line per image, then the figures."""
    lines: List[str] = []
    for path, p in run.predictions:
        best = ", ".join("%s %.3f" % (printable(label), share) for label, share in p.top_k(max(1, top_k)))
        if p.known is False:
            best = "unknown (closest: %s)" % best
        done = "%d blocks run, %d skipped" % (p.blocks_run, p.blocks_skipped)
        if p.exit is not None:
            done = "left at the %s of %d exits; %s" % (_ordinal(p.exit + 1), run.exits, done)
        lines.append("%s: %s (%s)" % (printable(path), best, done))
    latency = percentiles_ms(run.batch_s)
    runs = "1 run" if len(run.batch_s) == 1 else "%d runs" % len(run.batch_s)
    lines += [
        "",
        "latency per batch of %d: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms (%s; engine only, decoding excluded)"
        % (run.batch_size, latency["p50"], latency["p90"], latency["p99"], runs),
        "engine: %.1f images/s; decoding and preprocessing: %.2f ms/image"
        % (run.images_per_second, 1e3 * sum(run.decode_s) / len(run.decode_s)),
        "block FLOPs skipped: %.1f %% on average" % (100 * (1 - run.flops_share)),
    ]
    return "\n".join(lines)


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return "%d%s" % (number, ending)
