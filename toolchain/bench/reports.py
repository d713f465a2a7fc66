"""The JSON objects that ``da3 bench`` prints and writes, key by key; docs/bench.md defines each figure."""

from __future__ import annotations

from typing import TypedDict

Conditions = dict[str, object]  # the machine, the versions and the sizes that the figures were measured with


class EngineRow(TypedDict):
    """One case at one batch size. None where there is no monolithic model.

    ``flops_share``: of the blocks, 0 to 1. ``left``: share of the pictures that left at each exit, and that ran to the
    end; empty where there are no exits. ``calls``: of the backend, that a picture went through, on average.
    ``mean_ms``: over batches, each by the median of those that did the same work; ratios and rates are by it.
    """

    name: str
    batch: int
    flops_share: float
    left: list[float]
    calls: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_second: float
    ratio_to_monolithic: float | None
    gain_per_flop: float | None


class Comparison(TypedDict):
    """The cases side by side. ``ratio``: the time of all-on over that of gated; None where one was not timed."""

    rows: list[EngineRow]
    break_even_skip: float | None
    ratio: float | None
    domain: str
    conditions: Conditions


class FreshProcess(TypedDict):
    """From the start of a new Python to its first answer, the most it held, and how much of that da3 and numpy do not
    explain."""

    startup_ms: float
    memory_bytes: int
    memory_growth_bytes: int


class EngineReport(Comparison, FreshProcess):
    """What ``da3 bench run`` prints. ``switch_us_by_loaded``: by the number of domains in memory."""

    cold_load_ms: float
    switch_us_by_loaded: dict[str, float]
    switch_us: float


Quantiles = dict[str, float]  # "p50", "p90", "p99": milliseconds


class StreamReport(TypedDict):
    """What ``da3 bench stream`` prints. ``engine_share``: of the time from frames' being sent to their answers.
    ``cpu_share``: of one core, that the process took, decoding included. ``growth_bytes``: resident memory at the end
    over ``settled_bytes``, that after the first hundred frames."""

    domain: str
    frames: int
    dropped: int
    fps: float
    sent_to_answer_ms: Quantiles
    sent_to_arrival_ms: Quantiles
    arrival_to_answer_ms: Quantiles
    engine_ms: Quantiles
    prepare_ms: Quantiles
    engine_share: float
    flops_share: float
    cpu_share: float
    settled_bytes: int
    growth_bytes: int
    conditions: Conditions


class HeldDomains(TypedDict):
    """A process that has domains in memory and has answered with each. ``one_bytes``: resident with the first alone.
    ``layout_bytes``, ``layout_ms``: what a domain that closes other blocks takes beyond its own; None where it has
    gates."""

    one_bytes: int
    resident_bytes: int
    load_ms: float
    switch_us: float
    layout_bytes: float | None
    layout_ms: float | None


class ScaleRow(HeldDomains):
    """A bundle with so many ``domains``. ``add_ms``, ``load_ms``, ``switch_us``, ``push_ms``, ``pull_ms``: medians of
    one domain's. ``disk_bytes``: what the bundle's domains take on this file system. ``names_ms``: to open the bundle
    and list them. ``push_bytes``, ``pull_bytes``: on the wire, both ways, of one domain; ``poll_bytes``: of a pull of
    what is there already. None without a registry."""

    domains: int
    pack_bytes: float
    disk_bytes: int
    add_ms: float
    names_ms: float
    push_ms: float | None
    push_bytes: float | None
    pull_ms: float | None
    pull_bytes: float | None
    poll_bytes: float | None


class Foretold(TypedDict):
    """A figure of the last row, from the first two. ``error``: of what was foretold, over what was measured, less 1."""

    figure: str
    foretold: float
    measured: float
    error: float


class ScaleAssumptions(TypedDict):
    """The fleet that the model is asked about."""

    domains: int
    boards: int
    domains_a_board: int
    megabits_a_second: float


class Scaled(TypedDict):
    """What the model says of that fleet; nothing of it was measured. docs/scale.md defines each figure."""

    registry_bytes: float
    push_all_bytes: float | None
    push_all_seconds: float | None
    roll_out_bytes: float
    roll_out_seconds_at_link: float
    board_add_seconds: float | None
    board_disk_bytes: float | None
    board_resident_bytes: float | None
    one_changed_bytes: float
    poll_bytes_an_hour: float
    polls_a_second: float
    server_disk_bytes: float | None
    server_resident_bytes: float | None
    server_load_seconds: float | None
    server_names_ms: float | None
    apart_bytes: float


class ScaleReport(TypedDict):
    """What ``da3 bench scale`` prints. ``backbone_bytes``: of the bundle without its domains."""

    domain: str
    backbone_bytes: int
    rows: list[ScaleRow]
    foretold: list[Foretold]
    assumed: ScaleAssumptions
    model: Scaled
    conditions: Conditions


class TrainRow(TypedDict):
    """What one method's training costs. ``ratios``: figures over fine-tuning's; None where that was not measured."""

    method: str
    kept_bytes_per_image: float | None
    peak_growth_bytes: float
    step_seconds_median: float
    step_seconds_iqr: float
    trainable_parameters: int
    domain_bytes: int
    flops_share: float
    step_seconds: list[float]
    ratios: dict[str, float | None] | None


class FailedMethod(TypedDict):
    """A method that could not be measured, and why, in one line."""

    method: str
    error: str


class TrainReport(TypedDict):
    """What ``da3 bench train`` prints."""

    rows: list[TrainRow]
    failed: list[FailedMethod]
    conditions: Conditions


class WholeRow(TypedDict):
    """What one command took, from its start to the written domain; bytes are medians over the rounds.

    ``ratios``: ``peak_bytes`` and ``seconds_median`` over fine-tuning's; None where that was not measured.
    """

    method: str
    engine: str
    peak_bytes: float
    children_bytes: float
    together_bytes: float
    seconds_median: float
    seconds: list[float]
    ratios: dict[str, float] | None


class WholeReport(TypedDict):
    """What ``da3 bench train --whole-process`` prints."""

    rows: list[WholeRow]
    failed: list[FailedMethod]
    conditions: Conditions


class Paired(TypedDict):
    """Differences between pairs of runs with the same domain and seed: mean, and its standard error (None for one
    pair)."""

    mean: float
    error: float | None
    pairs: int


class Gated(TypedDict):
    """Of photos that leave at exits, each half of them by thresholds chosen on the other half.

    ``left``: share of the photos that leave at each exit, and that run to the end. ``static`` and ``permuted``:
    accuracy, by seed, of the best choice that does not look at the photo at the same share of block FLOPs, and of the
    same decisions dealt to the photos at random. ``over_static`` and ``over_permuted``: what is gained over these.
    """

    left: list[float]
    static: list[float]
    static_mean: float
    over_static: Paired
    permuted: list[float]
    permuted_mean: float
    over_permuted: Paired


class Accuracies(TypedDict):
    """Accuracy on validation photos, 0 to 1: by seed, mean, and sample standard deviation (None for a single seed).

    ``best``: of the best epoch; None where photos leave at exits, which is tried with the last epoch's network alone.
    ``gated``: None where every photo runs to the end. ``against``: what the method gains over the baseline; None
    without one, and for itself.
    """

    seeds: list[int]
    last: list[float]
    last_mean: float
    last_std: float | None
    best: list[float] | None
    best_mean: float | None
    best_std: float | None
    flops_share: float
    gated: Gated | None
    against: Paired | None


class AccuracyRow(Accuracies):
    """One method on one domain."""

    method: str
    domain: str


class OverallRow(Accuracies):
    """One method over all domains: each seed's value is its mean over ``domains``."""

    method: str
    domains: list[str]


class AccuracySummary(TypedDict):
    """Scores by method and domain, and by method over all domains."""

    rows: list[AccuracyRow]
    overall: list[OverallRow]


class RateChoice(TypedDict):
    """Learning rates of which one is reported. ``means``: accuracy by method, over the ``runs`` domains and seeds that
    all of them have; ``reported``: the best of them."""

    asked: str
    reported: str
    means: dict[str, float]
    runs: int


class FailedRun(TypedDict):
    """A training run that ended in an error, in one line. ``method``: the name of what was trained."""

    method: str
    domain: str
    seed: int
    error: str


class AccuracyReport(AccuracySummary):
    """What ``da3 bench accuracy`` prints and writes. ``remaining``: how many runs are not trained yet. ``against``: the
    method that the others are compared with."""

    choices: list[RateChoice]
    against: str | None
    failed: list[FailedRun]
    remaining: int
    conditions: Conditions


class KilledFleet(TypedDict):
    """A fleet of which a node was switched off after ``killed_after`` domains. ``went_on``: domains that were lost with
    it and gone on with. ``finished`` and ``identical``: how many are, of all."""

    seconds: float
    killed_after: int
    went_on: int
    finished: int
    identical: int


class FleetBenchReport(TypedDict):
    """``loop_seconds`` and ``fleet_seconds``: of each round. ``overhead``: of the median round, 0.05 for 5 % more than
    the loop. ``different``: by domain and case what is not bit by bit as in the loop."""

    domains: int
    nodes: int
    cpus: int
    epochs: int
    size: int
    backbone: str
    weights: str
    loop_seconds: list[float]
    fleet_seconds: list[float]
    overhead: float
    killed: KilledFleet | None
    different: dict[str, list[str]]
    conditions: Conditions


class DistributedRow(TypedDict):
    """One and several processes at one size. Lists are by seed: ``step_seconds_*`` the median of a run's steps,
    ``speed_ups`` how many times one process's step takes several's, ``accuracy_*`` and ``loss_*`` those on the
    validation photos after the last epoch. ``step_seconds_threads``: of one process with as many threads, empty
    where that was not asked for. ``bytes_a_step``: what each process gives to the sums of a step;
    ``exchange_seconds``: the median of what these take, with the wait for the slower process."""

    size: int
    step_seconds_one: list[float]
    step_seconds_several: list[float]
    speed_up: float
    speed_ups: list[float]
    step_seconds_threads: list[float]
    bytes_a_step: int
    exchange_seconds: float
    accuracy_one: list[float]
    accuracy_several: list[float]
    loss_one: list[float]
    loss_several: list[float]


class DistributedReport(TypedDict):
    """What ``da3 bench distributed`` prints."""

    processes: int
    rows: list[DistributedRow]
    conditions: Conditions
