"""Reading one domain, from a bundle or from a pack, and refusing it when it does not fit the backbone."""

import hashlib
import math
import os
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

import numpy as np

from ..errors import BundleError, DomainError, quoted, stands_in_a_line
from ..records import Array, Domain, ExitRule, Path, Shape
from .familiar import check_familiar, parse_familiar
from .files import Files
from .format import (
    DESCRIPTION,
    FAMILIAR,
    FAMILIAR_LIMIT,
    FORMAT,
    GATED_FORMAT,
    GOLDENS,
    GOLDENS_LIMIT,
    JSON_LIMIT,
    WEIGHTS,
    WEIGHTS_LIMIT,
    is_domain_name,
)
from .jsonfile import Object, check_format, parse_object
from .manifest import Manifest, sha256_entry
from .plan import closable, domain_inputs, exit_steps, exit_tensors, logits_shape, sized, skip_tensors
from .safetensors import parse_safetensors

_LONGEST_CLASS = 256
_EXIT_SETTINGS = ("exits", "exit_width")  # of an adaptor: what a domain without exits does not have


def read_pack(path: Path) -> Domain:
    """The domain in a pack (`flowers.da3`) or in a folder with domain.json. Whether it fits a bundle, `fitted` says."""
    files = Files(path, DESCRIPTION, "domain pack")
    try:
        return read_domain_files(files, "")
    finally:
        files.close()


def read_domain_files(files: Files, prefix: str) -> Domain:
    """The domain whose domain.json lies at `prefix` ("" or "domains/<name>/"); hash and numbers verified."""
    return _read(files, prefix)[0]


def read_domain_content(files: Files, prefix: str) -> Tuple[Domain, Dict[str, bytes]]:
    """`read_domain_files`, and the files themselves by name, golden values too where there are any: the very bytes that
    were verified, to be written elsewhere."""
    domain, root, content = _read(files, prefix)
    goldens = _goldens(files, prefix, root)
    return domain, content if goldens is None else dict(content, **{GOLDENS: goldens})


def _read(files: Files, prefix: str) -> Tuple[Domain, Object, Dict[str, bytes]]:
    """The domain, its domain.json, and the bytes of the files that both were read from."""
    where = os.path.join(files.path, *(prefix + DESCRIPTION).split("/"))
    description = files.read(prefix + DESCRIPTION, limit=JSON_LIMIT)
    root = parse_object(description, where)
    number = check_format(root, FORMAT)
    name = root.text("name")
    if not is_domain_name(name):
        raise DomainError(
            "%s: bad domain name %s: letters, digits, _ and -, at most 64, no _ or - first, and no device of Windows "
            "such as CON" % (where, quoted(name))
        )
    classes = root.texts("classes")
    if not classes or len(set(classes)) != len(classes):
        raise DomainError("%s: classes must be different names, at least one" % where)
    check_classes(classes, where)
    data = _named_file(files, prefix, root.object("weights"), WEIGHTS, "the weights")
    content = {DESCRIPTION: description, WEIGHTS: data}
    familiar = _familiar(files, prefix, root)
    if familiar is not None:
        content[FAMILIAR] = familiar
    domain = Domain(
        name=name,
        classes=tuple(classes),
        backbone_sha256=sha256_entry(root, "backbone_sha256"),
        size=root.integer("size"),
        adaptor=root.plain("adaptor"),
        metrics=root.plain("metrics"),
        weights=_float32(parse_safetensors(data, where.replace(DESCRIPTION, WEIGHTS))[0], name),
        provenance={} if root.optional("provenance") is None else root.plain("provenance"),
        familiar=None if familiar is None else parse_familiar(familiar, where.replace(DESCRIPTION, FAMILIAR)),
    )
    if number <= GATED_FORMAT:
        domain = domain._replace(theta=root.number("theta"), gated=root.flag("gated"))
    else:
        domain = _with_decisions(domain, root)
    return domain, root, content


def check_classes(names: Iterable[str], where: str) -> None:
    """Raise DomainError, which begins with `where`, for a class whose name would do more in a terminal than stand
    there: one with control characters, line ends or marks that turn the direction of writing, or with bytes that were
    not UTF-8."""
    for name in names:
        if not 0 < len(name) <= _LONGEST_CLASS or not stands_in_a_line(name):
            raise DomainError(
                "%s: class %s: a name has 1 to %d printable characters: rename it"
                % (where, quoted(name), _LONGEST_CLASS)
            )


def read_domain_goldens(files: Files, prefix: str) -> Optional[bytes]:
    """The file of golden values that lies with the domain.json at `prefix`, verified by its hash; None where there is
    none. Another da3 may have carried the domain on without it. Raises BundleError for one that is damaged."""
    where = os.path.join(files.path, *(prefix + DESCRIPTION).split("/"))
    return _goldens(files, prefix, parse_object(files.read(prefix + DESCRIPTION, limit=JSON_LIMIT), where))


def _goldens(files: Files, prefix: str, root: Object) -> Optional[bytes]:
    if root.optional("goldens") is None or not files.exists(prefix + GOLDENS):
        return None
    return _named_file(files, prefix, root.object("goldens"), GOLDENS, "the golden values")


def _familiar(files: Files, prefix: str, root: Object) -> Optional[bytes]:
    """The same of the file that says what the domain's photos look like."""
    if root.optional("familiar") is None or not files.exists(prefix + FAMILIAR):
        return None
    return _named_file(files, prefix, root.object("familiar"), FAMILIAR, "what its photos look like")


def _named_file(files: Files, prefix: str, entry: Object, name: str, what: str) -> bytes:
    """The file that an entry of the domain.json at `prefix` names, which must be called `name`; verified by its hash.
    what: it holds, in words."""
    where = os.path.join(files.path, *(prefix + DESCRIPTION).split("/"))
    if entry.text("file") != name:
        raise BundleError("%s: %s' file must be called %s" % (where, what, name))
    limits = {WEIGHTS: WEIGHTS_LIMIT, GOLDENS: GOLDENS_LIMIT, FAMILIAR: FAMILIAR_LIMIT}
    data = files.read(prefix + name, expected_bytes=entry.integer("bytes"), limit=limits[name])
    if hashlib.sha256(data).hexdigest() != sha256_entry(entry, "sha256"):
        raise BundleError("%s: %s are not those %s names (wrong sha256); copy them again" % (where, what, DESCRIPTION))
    return data


def _with_decisions(domain: Domain, root: Object) -> Domain:
    closed = root.items("closed")
    if not all(type(block) is int for block in closed) or closed != sorted(set(closed)):
        raise BundleError("%s: closed must hold different block numbers, ascending" % root.where)
    rules: List[ExitRule] = []
    for entry in root.objects("exits"):
        threshold = None if entry.optional("threshold") is None else entry.number("threshold")
        rules.append(ExitRule(threshold, entry.number("temperature")))
    domain = domain._replace(
        closed=tuple(closed),
        exits=tuple(rules),
        temperature=root.number("temperature"),
        calibration=root.plain("calibration"),
    )
    check_rules(domain)
    return domain


def check_rules(domain: Domain) -> None:
    """Raise DomainError for thresholds or temperatures that cannot be."""
    if not math.isfinite(domain.theta):
        raise DomainError("domain %s: theta is a finite number, not %s" % (domain.name, domain.theta))
    for rule in domain.exits + (ExitRule(None, domain.temperature),):
        if rule.threshold is not None and not 0 <= rule.threshold <= 1:
            raise DomainError("domain %s: an exit's threshold is from 0 to 1, not %s" % (domain.name, rule.threshold))
        if not 1e-3 <= rule.temperature <= 1e3:
            raise DomainError(
                "domain %s: a temperature is from 0.001 to 1000, not %s" % (domain.name, rule.temperature)
            )


def fitted(domain: Domain, manifest: Manifest) -> Domain:
    """The domain with a tensor for every `domain:` input of the plan.

    Raises DomainError unless it was made for this backbone, input size and adaptor, with all its tensors. Those that
    only blocks need which it never skips may be missing, and are zeros. So may be the exits' tensors of a domain whose
    adaptor has none, where nobody leaves then: an exit of zeros adds nothing to the last answer.
    """
    if domain.backbone_sha256 != manifest.backbone_sha256:
        raise DomainError(
            "pack %s was trained on backbone %s...; this bundle holds %s, backbone %s...: "
            "train it on that backbone, or use a bundle of the other"
            % (domain.name, domain.backbone_sha256[:12], manifest.arch, manifest.backbone_sha256[:12])
        )
    if domain.size != manifest.preprocessing.size:
        raise DomainError(
            "pack %s was trained at %d px; this bundle runs at %d px: export both at one size"
            % (domain.name, domain.size, manifest.preprocessing.size)
        )
    bare = {key: value for key, value in manifest.adaptor.items() if key not in _EXIT_SETTINGS}
    without_exits = domain.adaptor == bare != manifest.adaptor
    if domain.adaptor != manifest.adaptor and not without_exits:
        keys = sorted(
            k
            for k in set(domain.adaptor) | set(manifest.adaptor)
            if domain.adaptor.get(k) != manifest.adaptor.get(k) or (k in domain.adaptor) != (k in manifest.adaptor)
        )
        sides = [[quoted(adaptor.get(k)) for k in keys] for adaptor in (domain.adaptor, manifest.adaptor)]
        differ = ["%s %s, here %s" % texts for texts in zip(keys, *sides)]
        raise DomainError(
            "pack %s has another adaptor than this bundle (%s): train it with the bundle's"
            % (domain.name, "; ".join(differ))
        )
    _check_decisions(domain, manifest, 0 if without_exits else len(exit_steps(manifest.plan)))
    wanted = domain_inputs(manifest.plan, manifest.segments)
    idle: Set[str] = set() if domain.gated else skip_tensors(manifest.plan, domain.closed)
    idle |= exit_tensors(manifest.plan) if without_exits else set()
    classes = logits_shape(manifest.plan, manifest.segments)[-1]
    sizes = {classes: len(domain.classes)} if isinstance(classes, str) else {}
    shapes = {name: sized(wanted[name][0], sizes) for name in idle - set(domain.weights)}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if shape is not None}
    domain = domain._replace(weights=dict(domain.weights, **zeros)) if zeros else domain
    _check_tensors(domain, wanted, manifest)
    check_familiar(domain, manifest)
    return domain


def _check_decisions(domain: Domain, manifest: Manifest, exits: int) -> None:
    """Raise DomainError for blocks that cannot be closed, or rules for other exits than the domain's, of which there
    are so many."""
    check_rules(domain)
    known = closable(manifest.plan)
    for block in domain.closed:
        if block not in known:
            raise DomainError(
                "domain %s closes block %d; blocks of this bundle that can be closed: %s"
                % (domain.name, block, ", ".join(str(b) for b in sorted(known)) or "none")
            )
    if domain.exits and len(domain.exits) != exits:
        raise DomainError(
            "domain %s has rules for %d exits, and %d exits; export it again" % (domain.name, len(domain.exits), exits)
        )


def _check_tensors(domain: Domain, wanted: Dict[str, Tuple[Shape, ...]], manifest: Manifest) -> None:
    sizes: Dict[str, int] = {}
    for key, shapes in sorted(wanted.items()):
        if key not in domain.weights:
            raise DomainError("domain %s lacks the tensor %s; export it again" % (domain.name, key))
        for shape in shapes:
            _check_shape(domain, key, domain.weights[key].shape, shape, sizes)
    last = logits_shape(manifest.plan, manifest.segments)[-1]
    if isinstance(last, str) and last not in sizes:
        raise DomainError(
            "domain %s: the plan's answers have the size %s, and no tensor of a domain has; export the bundle again"
            % (domain.name, quoted(last))
        )
    count = sizes[last] if isinstance(last, str) else last
    if count != len(domain.classes):
        raise DomainError(
            "domain %s names %d classes, its head answers %d; export it again"
            % (domain.name, len(domain.classes), count)
        )


def _check_shape(domain: Domain, key: str, found: Any, wanted: Shape, sizes: Dict[str, int]) -> None:
    """`sizes` collects what each free dimension is in this domain."""
    fits = len(found) == len(wanted)
    for have, want in zip(found, wanted):
        expected = sizes.setdefault(want, have) if isinstance(want, str) else want
        fits = fits and have == expected
    if not fits:
        known = [sizes.get(n, n) if isinstance(n, str) else n for n in wanted]
        raise DomainError(
            "domain %s: tensor %s has shape %s, the plan wants %s; export it again"
            % (domain.name, key, list(found), known)
        )


def _float32(tensors: Dict[str, Array], name: str) -> Dict[str, Array]:
    weights: Dict[str, Array] = {}
    bad: List[str] = []
    for key, tensor in tensors.items():
        if tensor.dtype not in (np.float16, np.float32):
            raise DomainError("domain %s: tensor %s is %s, not float16 or float32" % (name, key, tensor.dtype))
        weights[key] = np.ascontiguousarray(tensor, dtype=np.float32).reshape(tensor.shape)
        if not np.isfinite(weights[key]).all():
            bad.append(key)
    if bad:
        raise DomainError(
            "domain %s: %s holds NaN or infinite weights: training diverged, train it again" % (name, bad[0])
        )
    return weights
