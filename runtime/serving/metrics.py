"""Counters in Triton's own Prometheus output, by domain."""

from typing import Any, Dict, Tuple

_COUNTERS = (
    ("pictures", "da3_pictures_total", "Pictures that were answered"),
    ("refused", "da3_pictures_refused_total", "Pictures that could not be read, and others of their requests"),
    ("blocks", "da3_blocks_total", "Blocks of the backbone, of all pictures that were answered"),
    ("skipped", "da3_blocks_skipped_total", "Blocks of the backbone that were not run"),
    ("early", "da3_pictures_left_early_total", "Pictures that left at an exit before the end"),
)


class Metrics:
    """Adds to the counters; each is in Triton's output from its domain's first picture on."""

    def __init__(self, pb_utils: Any) -> None:
        kind = pb_utils.MetricFamily.COUNTER
        self._families = {
            key: pb_utils.MetricFamily(name=name, description=text + ", by domain.", kind=kind)
            for key, name, text in _COUNTERS
        }
        self._metrics: Dict[Tuple[str, str], Any] = {}

    def add(self, domain: str, counts: Dict[str, int]) -> None:
        """counts: by the first column of the table above."""
        for key, count in counts.items():
            metric = self._metrics.get((key, domain))
            if metric is None:
                metric = self._families[key].Metric(labels={"domain": domain})
                self._metrics[key, domain] = metric
            if count:
                metric.increment(count)
