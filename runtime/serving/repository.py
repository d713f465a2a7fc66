"""A repository for Triton on disk: written, and changed while a server reads it. See layout.py for what lies where.

One process at a time changes it. What Triton may see appears whole, in one step: a domain's folder is made elsewhere
and then moved. A domain that is replaced gets a new number and a new pack, so Triton goes on with the old one until it
loads the new configuration; the pack before stays until the domain is replaced again.
"""

import hashlib
import os
from contextlib import contextmanager
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..bundle.bundle import Bundle
from ..bundle.domain import fitted, read_pack
from ..bundle.format import JSON_LIMIT, MANIFEST, is_domain_name
from ..bundle.jsonfile import check_format, parse_object
from ..bundle.packs import copy_pack, write_pack
from ..bundle.placing import put_folder, remove_folder, settle_folders
from ..bundle.writer import to_json
from ..errors import BundleError, DomainError
from ..records import Domain, Path
from ..system.atomic import remove_unfinished, replace_file
from ..system.locking import exclusive
from ..system.regular import read_regular
from .config_text import domain_config, labels_file, runtime_config
from .layout import (
    BUNDLE,
    CONFIG,
    FORMAT,
    LABELS,
    MODELS,
    NUMBER,
    PACKS,
    RUNTIME,
    STATE,
    STORE,
    VERSION,
    Settings,
    pack_name,
)
from .model_file import model_files
from .numbers import MOST

_SMALL = 1 << 20  # bytes of a config.pbtxt or a da3.json
_LARGEST_RUNTIME = 16 << 20


class Packed(NamedTuple):
    """What was done with a domain: "added", "replaced" or "unchanged"."""

    name: str
    done: str


class _Numbers(NamedTuple):
    """Of a domain: the number it has, and the one that it had before it was replaced."""

    number: int
    before: Optional[int]


class Repository:
    """A folder that Triton serves domains from. It need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = os.fspath(path)
        self.models = os.path.join(self.path, MODELS)
        self.store = os.path.join(self.path, STORE)
        self.bundle = os.path.join(self.store, BUNDLE)

    @property
    def exists(self) -> bool:
        return os.path.isfile(os.path.join(self.store, STATE))

    @property
    def domains(self) -> List[str]:
        """Sorted names of the domains that Triton may load."""
        names = os.listdir(self.models) if os.path.isdir(self.models) else []
        return sorted(name for name in names if name != RUNTIME and os.path.isfile(self._number_file(name)))

    @property
    def settings(self) -> Settings:
        return self._state()[0]

    def write_runtime(self, bundle: Optional[Path], settings: Settings, run_engine: bytes) -> None:
        """Write the shared model, and the bundle that it runs without its domains; what is so already stays untouched,
        and Triton need not load it again. bundle: None leaves the one of the repository; run_engine: run_engine.pyz.

        Raises BundleError where it cannot be written, or the bundle does not fit domains that are in the repository.
        """
        if bundle is None and not self.exists:
            raise BundleError("there is no repository at %s yet: name the bundle it is to be made of" % self.path)
        source = None if bundle is None else Bundle(bundle)
        with self._changing(True):
            if source is not None:
                with source:
                    self._put_bundle(source)
            number = self._state()[1] if self.exists else 0
            self._write_state(settings, number)
            with Bundle(self.bundle) as opened:
                made_of = hashlib.sha256(opened.files.read(MANIFEST, limit=JSON_LIMIT)).hexdigest()
            files = {CONFIG: runtime_config(settings, made_of), VERSION + "/run_engine.pyz": run_engine}
            files.update((VERSION + "/" + name, data) for name, data in model_files().items())
            if not self._is(RUNTIME, files):
                self._put_model(RUNTIME, files)
            self._remove_lost_packs()

    def put(self, name: Path, bundle: Optional[Path] = None) -> Packed:
        """Put a domain into the repository, in the place of one of its name: a domain of `bundle` by name, or a pack.
        It is verified, and refused where it was made for another backbone."""
        text = os.fspath(name)
        with self._changing(False):
            settings, number = self._state()
            if number >= MOST:
                raise BundleError("%s has given all of its %d numbers: write a new repository" % (self.path, MOST))
            os.makedirs(os.path.join(self.store, PACKS), exist_ok=True)
            pack = self._pack(number)
            domain = self._write_pack(text, bundle, pack)
            try:
                return self._put(domain, number, settings)
            except BaseException:
                if not self._names(number):
                    _remove(pack)
                raise

    def remove(self, name: str) -> None:
        """Take a domain out. A server that has it loaded goes on with it until it is unloaded, as far as it was asked
        for already."""
        with self._changing(False):
            if name not in self.domains:
                known = ", ".join(self.domains) or "none yet"
                raise DomainError("unknown domain %r; %s has: %s" % (name, self.path, known))
            numbers = self._numbers(name)
            remove_folder(self.models, name, self.store)
            for number in numbers or ():
                if number is not None:
                    _remove(self._pack(number))

    # -- inside

    def _put(self, domain: Domain, number: int, settings: Settings) -> Packed:
        name = domain.name
        if name == RUNTIME:
            raise DomainError("a domain cannot be served as %s, which is the runtime's own name: rename it" % name)
        place = os.path.join(self.models, name)
        before = self._numbers(name) if os.path.lexists(place) else None
        if os.path.lexists(place) and before is None:
            raise DomainError("%s is a model of Triton's that da3 did not write: rename one of them" % place)
        if before is not None and _same(self._pack(before.number), self._pack(number)):
            files = self._files(domain, before)
            if not self._is(name, files):  # by an older da3
                self._put_model(name, files)
            _remove(self._pack(number))
            return Packed(name, "unchanged")
        # A number is used up before anything is called by it: none is ever given twice.
        self._write_state(settings, number + 1)
        self._put_model(name, self._files(domain, _Numbers(number, None if before is None else before.number)))
        if before is not None and before.before is not None:
            _remove(self._pack(before.before))
        return Packed(name, "added" if before is None else "replaced")

    def _files(self, domain: Domain, numbers: _Numbers) -> Dict[str, bytes]:
        return {
            CONFIG: domain_config(domain, numbers.number),
            LABELS: labels_file(domain),
            "%s/%s" % (VERSION, NUMBER): to_json(dict(numbers._asdict(), format=FORMAT)),
        }

    def _write_pack(self, text: str, bundle: Optional[Path], pack: str) -> Domain:
        """Write a domain's verified files as `pack`."""
        with Bundle(self.bundle) as opened:
            manifest = opened.manifest
            if bundle is not None:
                with Bundle(bundle) as source:
                    named = text in source.domains
                    known = source.domains
            else:
                named, known = False, []
            if named and bundle is not None:
                write_pack(bundle, text, pack)
                return fitted(read_pack(pack), manifest)
            if os.path.exists(text):
                return copy_pack(text, manifest, pack)
        if is_domain_name(text) and bundle is not None:
            raise DomainError("unknown domain %r; %s has: %s" % (text, bundle, ", ".join(known) or "none yet"))
        raise DomainError("no domain pack at %s: name one that is there, or a bundle with the domain" % text)

    def _put_bundle(self, source: Bundle) -> None:
        """Copy a bundle without its domains into the store, unless it is there."""
        manifest = source.files.read(MANIFEST, limit=JSON_LIMIT)
        if os.path.isdir(self.bundle):
            with Bundle(self.bundle) as there:
                if there.files.read(MANIFEST, limit=JSON_LIMIT) == manifest:
                    return
            for name in self.domains:
                numbers = self._numbers(name)
                if numbers is not None:
                    fitted(read_pack(self._pack(numbers.number)), source.manifest)
        files = {name: source.read(name) for name in sorted(source.manifest.files)}
        put_folder(self.store, BUNDLE, dict(files, **{MANIFEST: manifest}))

    def _remove_lost_packs(self) -> None:
        """Remove packs that no domain has: those of a process that was killed before it had put the domain."""
        folder = os.path.join(self.store, PACKS)
        found = [self._numbers(name) for name in self.domains]
        wanted = {pack_name(n) for numbers in found if numbers is not None for n in numbers if n is not None}
        for file in os.listdir(folder) if os.path.isdir(folder) else ():
            if file not in wanted:
                _remove(os.path.join(folder, file))

    def _put_model(self, name: str, files: Dict[str, bytes]) -> None:
        put_folder(self.models, name, files, self.store)

    def _is(self, name: str, files: Dict[str, bytes]) -> bool:
        """Is this what the model's files are?"""
        for file, data in files.items():
            try:
                there = read_regular(os.path.join(self.models, name, *file.split("/")), _LARGEST_RUNTIME)
            except OSError:
                return False
            if there != data:
                return False
        return True

    def _pack(self, number: int) -> str:
        return os.path.join(self.store, PACKS, pack_name(number))

    def _names(self, number: int) -> List[str]:
        """The domains that have the number."""
        found = [(name, self._numbers(name)) for name in self.domains]
        return [name for name, numbers in found if numbers is not None and number in numbers]

    def _number_file(self, name: str) -> str:
        return os.path.join(self.models, name, VERSION, NUMBER)

    def _numbers(self, name: str) -> Optional[_Numbers]:
        """None where the model is none of ours."""
        path = self._number_file(name)
        try:
            data = read_regular(path, _SMALL)
        except OSError:
            return None
        found = parse_object(data, path)
        check_format(found, FORMAT)
        before = found.optional("before")
        return _Numbers(found.integer("number"), None if before is None else found.integer("before"))

    def _state(self) -> Tuple[Settings, int]:
        """The settings, and the number that the next domain gets."""
        path = os.path.join(self.store, STATE)
        try:
            data = read_regular(path, _SMALL)
        except OSError as error:
            raise BundleError("%s is no repository of da3's: cannot read %s (%s)" % (self.path, path, error.strerror))
        found = parse_object(data, path)
        check_format(found, FORMAT)
        number = found.integer("next")
        if number < 0:
            raise BundleError("%s: next must not be negative" % path)
        settings = found.object("settings")
        read = Settings(
            settings.text("backend"),
            None if settings.optional("precision") is None else settings.text("precision"),
            None if settings.optional("threads") is None else settings.integer("threads"),
            settings.integer("batch_size"),
            settings.integer("domains_held"),
        )
        return read, number

    def _write_state(self, settings: Settings, number: int) -> None:
        data = to_json({"format": FORMAT, "next": number, "settings": settings._asdict()})
        replace_file(os.path.join(self.store, STATE), lambda file: file.write(data))

    @contextmanager
    def _changing(self, make: bool) -> Iterator[None]:
        """Nobody else changes the repository while this holds."""
        if not make and not self.exists:
            raise BundleError("%s is no repository of da3's: it has no %s" % (self.path, os.path.join(STORE, STATE)))
        try:
            os.makedirs(self.store, exist_ok=True)
            os.makedirs(self.models, exist_ok=True)
            with exclusive(self.store) as alone:
                if alone:
                    settle_folders(self.models, self.store)
                    remove_unfinished(self.store)
                yield
        except OSError as error:
            raise BundleError("cannot write %s: %s" % (self.path, error.strerror or error))


def _same(one: str, other: str) -> bool:
    try:
        return read_regular(one) == read_regular(other)
    except OSError:
        return False


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass
