"""What a self-test tests: the backbone with generated numbers in the place of a domain's, then the bundle's domains."""

from typing import Callable, List, NamedTuple, Optional, Sequence

from ..bundle.bundle import Bundle, read_domain, read_goldens
from ..bundle.format import BACKBONE_GOLDENS, domain_prefix
from ..errors import BundleError
from ..records import Domain
from .computing import TRIED, NumpySteps, compute, tried_domain
from .goldens import Goldens, parse_goldens
from .parts import Part
from .pictures import golden_pictures

BACKBONE = "the backbone"


class Subject(NamedTuple):
    """name: for people; domain: fitted to the bundle; goldens: None where the bundle has none for it that can be used,
    for the reason in `without`."""

    name: str
    domain: Domain
    goldens: Optional[Goldens]
    without: str = ""


def subject_names(bundle: Bundle, quick: bool) -> List[str]:
    """BACKBONE, then the bundle's domains; quick: the first of them alone."""
    return [BACKBONE] + bundle.domains[: 1 if quick else None]


def title_of(name: str) -> str:
    """What findings call a subject."""
    return name if name == BACKBONE else "domain %s" % name


def read_subject(bundle: Bundle, name: str) -> Subject:
    """The subject of that name, with the golden values that the bundle has of it. Raises DomainError, BundleError."""
    return _backbone(bundle) if name == BACKBONE else _domain(bundle, name)


def with_goldens(
    subject: Subject, bundle: Bundle, quick: bool, tell: Callable[[str], None], parts: Sequence[Part] = ()
) -> Subject:
    """The subject with golden values: those of the bundle, or computed here in numpy; quick: of two pictures. parts:
    those that are to be tested alone."""
    if subject.goldens is not None:
        return subject
    tell("%s: computing golden values in numpy, since %s" % (subject.name, subject.without))
    pictures = golden_pictures()[: 2 if quick else None]
    domain = subject.domain._replace(gated=False)
    return subject._replace(goldens=compute(bundle, domain, NumpySteps(bundle), NumpySteps.BY, pictures, parts).goldens)


def _backbone(bundle: Bundle) -> Subject:
    domain = tried_domain(bundle.manifest)
    if BACKBONE_GOLDENS not in bundle.manifest.files:
        return Subject(BACKBONE, domain, None, "this bundle was exported without any")
    return _checked(Subject(BACKBONE, domain, None), bundle, bundle.read(BACKBONE_GOLDENS), BACKBONE_GOLDENS)


def _domain(bundle: Bundle, name: str) -> Subject:
    domain = read_domain(bundle, name)
    if name == TRIED:  # two of one name cannot be loaded at once
        domain = domain._replace(name=TRIED + "-domain")
    subject = Subject(title_of(name), domain, None)
    data = read_goldens(bundle, name)
    if data is None:
        return subject._replace(without="the domain was exported, or learnt, without any")
    return _checked(subject, bundle, data, domain_prefix(name))


def _checked(subject: Subject, bundle: Bundle, data: bytes, name: str) -> Subject:
    """The subject with these golden values, if they are of what it is now."""
    goldens = parse_goldens(data, "%s: %s" % (bundle.path, name))
    if goldens.closed != tuple(subject.domain.closed):
        return subject._replace(without="those it has are of other closed blocks")
    missing = {step.outputs[0] for step in bundle.manifest.plan if step.exit} - set(goldens.chain)
    if missing:
        raise BundleError("%s: %s lacks golden values of %s: export it again" % (bundle.path, name, missing.pop()))
    return subject._replace(goldens=goldens)
