"""A bundle on disk: opened, checked, and its domains read, added and removed."""

from .bundle import Bundle, read_domain

__all__ = ["Bundle", "read_domain"]
