"""Domains in an OCI registry, through the package oras: pushed from one bundle, pulled into many."""

from .artifact import parse_artifact
from .pull import Pulled, pull_domain
from .push import Pushed, push_domain
from .reference import parse_reference

__all__ = ["Pulled", "Pushed", "parse_artifact", "parse_reference", "pull_domain", "push_domain"]
