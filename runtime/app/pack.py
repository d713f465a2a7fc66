"""The command `pack`: domains into a repository that Triton Inference Server serves them from, and out of it."""

import argparse
import os
from typing import List, Optional, Sequence

from ..bundle.bundle import unknown_domain
from ..bundle.packs import list_domains
from ..errors import BundleError, DomainError
from ..serving import Repository, Settings
from .printing import say
from .zipapp import run_engine


def pack_and_say(options: argparse.Namespace, default_bundle: str) -> int:
    """Write what all domains share where it is not as it should be, then take domains out and put others in.
    default_bundle: where a bundle is looked for if none is named."""
    repository = Repository(options.triton)
    bundle = _bundle(options, repository.exists, default_bundle)
    settings = repository.settings if repository.exists else Settings()
    given = {key: getattr(options, key) for key in ("backend", "precision", "threads", "batch_size", "domains_held")}
    settings = settings._replace(**{key: value for key, value in given.items() if value is not None})
    known = None if bundle is None else list_domains(bundle)
    if known is not None:
        _check_names(options.domain, known)  # before anything is written
    repository.write_runtime(bundle, settings, run_engine())
    for name in options.remove:
        repository.remove(name)
        say("removed %s" % name)
    named_none = not options.domain and not options.remove
    for name in (known or []) if named_none else options.domain:
        packed = repository.put(name, bundle)
        say("%s %s" % (packed.done, packed.name))
    count = len(repository.domains)
    say("%d domain%s: tritonserver --model-repository=%s" % (count, "" if count == 1 else "s", repository.models))
    return 0


def _check_names(names: Sequence[str], known: List[str]) -> None:
    for name in names:
        if name not in known and not os.path.exists(name):
            raise DomainError(unknown_domain(name, known))


def _bundle(options: argparse.Namespace, is_there: bool, default: str) -> Optional[str]:
    """The bundle that this is about; None where that in the repository is enough."""
    if options.bundle is not None:
        return str(options.bundle)
    named = [name for name in options.domain if not os.path.exists(name)]
    if is_there and not named and (options.domain or options.remove):
        return None
    if os.path.exists(default):
        return default
    if is_there and not named:
        return None
    raise BundleError("no bundle at %s: name the bundle that the domains are in (--bundle)" % default)
