"""A run that starts from a domain as bundles and packs have it: what was folded into its tensors is taken out again.

The statistics that adaptors and classifiers normalised by are gone there. New ones are measured on the run's own
photos, and the parameters are those that with these make the domain's tensors: the same function of a photo.
"""

import os
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..bundle.bundle import Bundle, read_domain
from ..bundle.domain import read_pack
from ..bundle.format import DESCRIPTION
from ..errors import CheckpointError
from ..records import Array, Domain
from ..training.config import AdaptorSpec
from ..training.starting import MUST_BE_EQUAL, TAKEN_OVER, Start, State, trained_run
from .parts import Adaptor, Bypass, Exit, Head, Part, Tensors


def find_start(named: str, runs: str, bundle: Optional[Bundle] = None) -> Start:
    """What `named` is: a run in the folder `runs`, a domain of the bundle, a pack, or the folder of a domain.

    Raises CheckpointError where it is none of them.
    """
    if os.path.basename(named) == named and named not in ("", os.curdir, os.pardir):
        run = trained_run(os.path.join(runs, named), named)
        if run is not None:
            return run
        if bundle is not None and named in bundle.domains:
            return of_domain(read_domain(bundle, named))
    if os.path.isfile(named) or os.path.isfile(os.path.join(named, DESCRIPTION)):
        return of_domain(read_pack(named))
    domains = [] if bundle is None else bundle.domains
    known = ", or a domain of the bundle: %s" % ", ".join(domains) if domains else ""
    raise CheckpointError(
        "--from %s: name a finished run in %s%s, a pack (NAME.da3), or the folder of a bundle's domain "
        "(bundle/domains/NAME)" % (named, runs, known)
    )


def of_domain(domain: Domain) -> Start:
    """What a run has to know to start from a domain as it is deployed. Raises CheckpointError for one of format 1."""
    if domain.gated or "head.weight" not in domain.weights:
        raise CheckpointError("domain %s is of an older da3, or no da3 domain: train it again" % domain.name)
    told: Any = domain.provenance.get("settings")
    settings: Dict[str, Any] = {key: told[key] for key in TAKEN_OVER if isinstance(told, dict) and key in told}
    backbone = told.get("backbone") if isinstance(told, dict) else None
    try:
        adaptor = AdaptorSpec.from_json(domain.adaptor)
    except TypeError:
        raise CheckpointError("domain %s has adaptors of another kind: train it again" % domain.name)
    found = ("da3", backbone, domain.backbone_sha256, domain.size, adaptor)
    settings.update(zip(MUST_BE_EQUAL, found))
    photos: Any = domain.provenance.get("photos")
    facts = {"domain": domain.name, "photos": photos} if isinstance(photos, dict) else {"domain": domain.name}
    return Start(domain.name, domain.classes, settings, lambda fresh: unfolded(domain, fresh), True, facts)


def unfolded(domain: Domain, fresh: State) -> State:
    """A checkpoint's state that makes the domain's tensors. fresh: a state with the statistics to normalise by.

    Raises CheckpointError where the domain lacks a tensor, or has one of another shape.
    """
    found: State = {}
    try:
        for part in _parts(domain, fresh):
            part.take(_below(part.folded_place, domain.weights))
            for held in (part.parameters, part.statistics):
                found.update((part.place + name, np.asarray(array, np.float32)) for name, array in held.items())
    except (KeyError, ValueError) as error:
        raise CheckpointError("domain %s does not fit this run (%s): train it again" % (domain.name, error))
    if "closed" in fresh:
        found["closed"] = np.array([i in domain.closed for i in range(len(fresh["closed"]))])
    return found


def _parts(domain: Domain, fresh: State) -> List[Part]:
    """The parts that the state has and the domain has tensors for, with the statistics of the state."""
    numbers = {kind: _numbers(kind, domain.weights) for kind in ("adaptors", "exits", "substitutes")}
    adaptors: Dict[int, Adaptor] = {}
    for i in numbers["adaptors"]:
        place = "adaptors.%d." % i
        adaptors[i] = Adaptor(place, _shapes(place, domain.weights), 0, i)
        adaptors[i].statistics = _statistics(place, fresh, ("mean", "std", "out_scale"))
    parts: List[Part] = list(adaptors.values())
    for i in numbers["exits"]:
        place, classes = "exits.%d." % i, len(domain.classes)
        exit = Exit(place, _shapes(place, domain.weights), adaptors[i + 1], 0, i)
        head = Head(place + "head.", 2 * exit.width, classes, place)
        head.statistics = _statistics(place + "head.", fresh, ("mean", "std"))
        parts += [exit, head]
    for i in numbers["substitutes"]:
        place = "substitutes.%d." % i
        if place + "down" in fresh:  # a run that closes nothing has no bypasses
            parts.append(Bypass(place, _shapes(place, domain.weights), adaptors[i]))
    head = Head("head.", domain.weights["head.weight"].shape[1], len(domain.classes))
    head.statistics = _statistics("head.", fresh, ("mean", "std"))
    return parts + [head]


def _numbers(kind: str, weights: Tensors) -> List[int]:
    """The blocks of which there are tensors of this kind."""
    return sorted({int(name.split(".")[1]) for name in weights if name.startswith(kind + ".")})


def _below(place: str, tensors: Dict[str, Array]) -> Tensors:
    return {name[len(place) :]: array for name, array in tensors.items() if name.startswith(place)}


def _shapes(place: str, weights: Tensors) -> Dict[str, Tuple[int, ...]]:
    return {name: array.shape for name, array in _below(place, weights).items()}


def _statistics(place: str, fresh: State, names: Tuple[str, ...]) -> Tensors:
    return {name: fresh[place + name] for name in names}
