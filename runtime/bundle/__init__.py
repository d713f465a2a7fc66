"""A bundle and its domains: opened, checked, read and written."""

from .bundle import Bundle, BundleContents, read_domain, read_goldens, unknown_domain
from .changing import put_file
from .domain import fitted, read_domain_goldens, read_pack
from .familiar import familiar_numbers, familiar_of, familiar_tensors, seen_values
from .format import BACKBONE_GOLDENS, DESCRIPTION, FAMILIAR, FORMAT, GOLDENS, MANIFEST, WEIGHTS, domain_prefix
from .jsonfile import Object, check_format, parse_object, read_json
from .manifest import FileEntry, Manifest, parse_manifest
from .packs import (
    add_pack,
    list_domains,
    put_domain,
    remove_domain,
    update_domain,
    update_familiar,
    write_pack,
)
from .plan import BATCH, DOMAIN, IMAGE, LOGITS, closable, exit_steps, sized, with_skipped
from .safetensors import parse_safetensors, write_safetensors
from .writer import as_stored, domain_files, file_entry, manifest_file, to_json, write_files

__all__ = [
    "BACKBONE_GOLDENS",
    "BATCH",
    "DESCRIPTION",
    "DOMAIN",
    "FAMILIAR",
    "FORMAT",
    "GOLDENS",
    "IMAGE",
    "LOGITS",
    "MANIFEST",
    "WEIGHTS",
    "Bundle",
    "BundleContents",
    "FileEntry",
    "Manifest",
    "Object",
    "add_pack",
    "as_stored",
    "check_format",
    "closable",
    "domain_files",
    "domain_prefix",
    "exit_steps",
    "familiar_numbers",
    "familiar_of",
    "familiar_tensors",
    "file_entry",
    "fitted",
    "list_domains",
    "manifest_file",
    "parse_manifest",
    "parse_object",
    "parse_safetensors",
    "put_domain",
    "put_file",
    "read_domain",
    "read_domain_goldens",
    "read_goldens",
    "read_json",
    "read_pack",
    "remove_domain",
    "seen_values",
    "sized",
    "to_json",
    "unknown_domain",
    "update_domain",
    "update_familiar",
    "with_skipped",
    "write_files",
    "write_pack",
    "write_safetensors",
]
