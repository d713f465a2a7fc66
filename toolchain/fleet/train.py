"""``da3 fleet train``: what is missing of a fleet, trained on a cluster, and at the end a bundle of all its domains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from da3.runtime.errors import Da3Error
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet.cluster import FAILED, FINISHED, Connected, Fleet, Outcome, State, check_address
from da3.toolchain.fleet.earlier import facts_of, look_back
from da3.toolchain.fleet.job import Job
from da3.toolchain.fleet.places import below, is_uri
from da3.toolchain.fleet.plan import FleetPlan
from da3.toolchain.fleet.table import FleetReporter
from da3.toolchain.process.worker import Worker, WorkerError

_BUNDLER = "da3.toolchain.fleet.bundle_process"


@dataclass
class FleetResult:
    """How a fleet ended. By domain: ``outcomes``, and ``there`` of those that were finished before, their accuracy.
    ``bundles``: where the bundles are, one for each backbone. ``trouble``: why there is none, in a line."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    there: dict[str, float | None] = field(default_factory=dict)
    bundles: list[str] = field(default_factory=list)
    trouble: str | None = None

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes.values() if outcome.state == FAILED]

    @property
    def stopped(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes.values() if outcome.state not in (FAILED, FINISHED)]


def train_fleet(
    plan: FleetPlan,
    reporter: FleetReporter,
    *,
    address: str | None = None,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> FleetResult:
    """Train what is missing of the plan on the cluster at ``address`` (see ``Fleet``), and bundle what is finished.

    When ``stop()`` turns true, running domains save and the result has ``stopped``; the same call goes on. Raises
    Da3Error, before anything is trained, for runs that were made with other options (unless ``overwrite``), and for a
    cluster that cannot do it.
    """
    check_address(address)
    result = FleetResult()
    waiting: list[Job] = []
    for left in look_back(list(plan.jobs), overwrite, reporter.looking):
        if left.job is None:
            result.there[left.name] = left.accuracy
        else:
            waiting.append(left.job)
    reporter.begin([job.name for job in plan.jobs], result.there)
    if waiting:
        shared = [] if is_uri(plan.out) else [plan.out]
        for event in Fleet(waiting, address=address, shared=shared, stop=stop).events():
            if isinstance(event, Connected):
                reporter.connected(event)
            elif isinstance(event, State):
                reporter.state(event)
            else:
                result.outcomes[event.name] = event
                reporter.outcome(event)
    if not stop():
        try:
            _bundle(plan, result, reporter)
        except Da3Error as error:
            result.trouble = str(error)
    return result


def _bundle(plan: FleetPlan, result: FleetResult, reporter: FleetReporter) -> None:
    """Put every finished domain into the bundle of its backbone."""
    done = set(result.there) | {name for name, outcome in result.outcomes.items() if outcome.state == FINISHED}
    groups: dict[str, list[Job]] = {}
    for job in plan.jobs:
        if job.name in done and job.pack is not None:
            facts = facts_of(job)
            if facts is not None:
                config = facts.config
                shape = [config.backbone, config.weights_sha256, config.size, config.adaptor.to_json()]
                key = hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:6]
                groups.setdefault(f"{config.backbone}-{config.size}-{key}", []).append(job)
    suffix = ".zip" if is_uri(plan.out) else ""
    for name, jobs in groups.items():
        place = below(plan.out, f"bundle{suffix}") if len(groups) == 1 else below(plan.out, "bundles", name + suffix)
        request = {
            "runs": plan.runs,
            "packs": below(plan.out, "packs"),
            "domains": [job.domain for job in jobs],
            "bundle": place,
            "cache": jobs[0].cache,
        }
        reporter.bundling(place, 0, len(jobs))
        try:
            with Worker(_BUNDLER, request) as worker:
                for answer in worker.answers():
                    reporter.bundling(place, answer["done"], len(jobs))
        except WorkerError as error:
            raise FleetError(
                f"{place} was not made: {error}; the packs are there, and the same command goes on"
            ) from error
        result.bundles.append(place)
