"""familiar.safetensors: what a domain's own photos look like, as a file. docs/bundle.md has the format."""

import json
import math
from typing import Any, Dict, List, Tuple

import numpy as np

from ..errors import BundleError, DomainError
from ..records import ENERGY, Array, Domain, Familiar, Look, LookPlace
from .jsonfile import Object, parse_object
from .manifest import Manifest
from .plan import BATCH, DOMAIN, LOGITS, exit_steps, with_skipped
from .safetensors import parse_safetensors, write_safetensors

_KEY = "familiar"  # of the metadata
_ROWS, _OFFSETS = ".rows", ".offsets"
_SMALLEST = 1e-9  # of what distances are divided by


def familiar_tensors(familiar: Familiar) -> Dict[str, Array]:
    """The arrays by name, float16."""
    tensors: Dict[str, Array] = {}
    for name, look in familiar.looks.items():
        tensors[name + _ROWS] = look.rows.astype(np.float16)
        tensors[name + _OFFSETS] = look.offsets.astype(np.float16)
    return tensors


def familiar_numbers(familiar: Familiar) -> Dict[str, Any]:
    """All but the arrays, as an object of JSON."""
    return {
        "limit": familiar.limit,
        "photos": list(familiar.photos),
        "looks": {name: [look.centre, look.scale] for name, look in sorted(familiar.looks.items())},
        ENERGY: list(familiar.energy),
        "places": [
            {"terms": list(place.terms), "knots": [list(knot) for knot in place.knots]} for place in familiar.places
        ],
    }


def familiar_file(familiar: Familiar) -> bytes:
    """The file's bytes; `parse_familiar` gives the same back. Raises ValueError for numbers that are not finite."""
    numbers = json.dumps(familiar_numbers(familiar), allow_nan=False)
    return write_safetensors(familiar_tensors(familiar), {_KEY: numbers})


def parse_familiar(data: bytes, where: str) -> Familiar:
    """Read a file of that name. Raises BundleError where it is damaged."""
    tensors, metadata = parse_safetensors(data, where)
    text = metadata.get(_KEY)
    if not isinstance(text, str):
        raise BundleError("%s: its metadata has no entry %r; export the domain again" % (where, _KEY))
    return familiar_of(parse_object(text.encode("utf-8"), where), tensors)


def familiar_of(root: Object, tensors: Dict[str, Array]) -> Familiar:
    """From what `familiar_numbers` and `familiar_tensors` made. Raises BundleError where they do not go together."""
    looks: Dict[str, Look] = {}
    for name in root.object("looks").raw:
        centre, scale = _numbers(root.object("looks"), name, 2)
        rows, offsets = _tensor(tensors, name + _ROWS, 2, root), _tensor(tensors, name + _OFFSETS, 1, root)
        looks[name] = Look(rows, offsets, centre, scale)
        if not 0 < len(offsets) <= len(rows):
            raise BundleError("%s: %s has more offsets than rows, or none" % (root.where, name))
    energy = _numbers(root, ENERGY, 2)
    if min([energy[1]] + [look.scale for look in looks.values()]) < _SMALLEST:
        raise BundleError("%s: a deviation must be positive" % root.where)
    places: List[LookPlace] = []
    for entry in root.objects("places"):
        terms = tuple(entry.texts("terms"))
        knots = tuple((share, far) for share, far in (_pair(entry, knot) for knot in entry.items("knots")))
        far = [one for _, one in knots]
        if not terms or not knots or not set(terms) <= set(looks) | {ENERGY}:
            raise BundleError("%s: must have knots, and terms that are among looks" % entry.where)
        if far != sorted(far) or not all(0 <= share <= 1 for share, _ in knots):
            raise BundleError("%s: knots must be shares, from 0 to 1, with ascending distances" % entry.where)
        places.append(LookPlace(terms, knots))
    limit = root.number("limit")
    if not places or not 0 < limit < 1:
        raise BundleError("%s: must have places, and a limit between 0 and 1" % root.where)
    fitted, calibrated = (int(number) for number in _numbers(root, "photos", 2))
    return Familiar(limit, looks, (energy[0], energy[1]), tuple(places), (fitted, calibrated))


def check_familiar(domain: Domain, manifest: Manifest) -> None:
    """Raise DomainError where it looks at what the plan does not have."""
    familiar = domain.familiar
    if familiar is None:
        return
    widths: Dict[str, Any] = {}
    for step in with_skipped(manifest.plan):
        for name, value in zip(step.outputs, manifest.segments[step.segment].outputs):
            widths[name] = value.shape[1] if len(value.shape) == 2 and value.shape[0] == BATCH else None
    exits = len(exit_steps(manifest.plan))
    fits = len(familiar.places) in (1, exits + 1)
    fits = fits and all(widths.get(name) == look.rows.shape[1] for name, look in familiar.looks.items())
    if not fits:
        raise DomainError(
            "domain %s: what it tells unknown pictures by (familiar.safetensors) is not for this bundle's plan; export "
            "it again, or fit it again with da3 calibrate --unknown" % domain.name
        )


def check_can_tell(domain: Domain, option: str) -> None:
    """Raise DomainError, naming the option that asks for it, for a domain that cannot tell unknown pictures."""
    if domain.familiar is None:
        raise DomainError(
            "%s: domain %s cannot tell unknown pictures, since nobody has shown it what its own look like: "
            "da3 calibrate --domain %s --unknown --data FOLDER, or train it again" % (option, domain.name, domain.name)
        )


def seen_values(manifest: Manifest) -> Tuple[Tuple[str, ...], str]:
    """The plan's names of the features that each exit's classifier reads, and of those that the last one reads."""
    exits = [_features_of(step.inputs) for step in exit_steps(manifest.plan)]
    last = next(step for step in manifest.plan if LOGITS in step.outputs)
    return tuple(exits), _features_of(last.inputs)


def _features_of(inputs: Tuple[str, ...]) -> str:
    """A classifier reads features, tensors of the domain, and maybe the answer before."""
    return next(name for name in inputs if not name.startswith(DOMAIN))


def _tensor(tensors: Dict[str, Array], name: str, dimensions: int, root: Object) -> Array:
    found = tensors.get(name)
    if found is None or found.ndim != dimensions or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise BundleError(
            "%s: the tensor %s is missing, or not finite in %d dimensions" % (root.where, name, dimensions)
        )
    return np.ascontiguousarray(found, np.float32)


def _numbers(root: Object, key: str, count: int) -> Tuple[float, ...]:
    found = root.items(key)
    if len(found) != count:
        raise BundleError("%s: %s must hold %d numbers" % (root.where, key, count))
    return tuple(_finite(root, key, number) for number in found)


def _pair(entry: Object, knot: Any) -> Tuple[float, float]:
    if not isinstance(knot, list) or len(knot) != 2:
        raise BundleError("%s: a knot is a share and a distance" % entry.where)
    return _finite(entry, "knots", knot[0]), _finite(entry, "knots", knot[1])


def _finite(root: Object, key: str, number: Any) -> float:
    try:
        found = float(number) if type(number) in (int, float) else math.nan
    except OverflowError:
        found = math.nan
    if not math.isfinite(found):
        raise BundleError("%s: %s must hold finite numbers" % (root.where, key))
    return found
