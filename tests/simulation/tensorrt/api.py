"""Which names a release of TensorRT has, and classes that have exactly those.

names/*.json holds, per release, the names of the classes that this simulation imitates. Those of 8.2.1 and 8.5.3 were
read from the published binding sources (NVIDIA/TensorRT, python/src at those tags), those of 8.6.1, 10.16.1 and 11.4.0
with `dir()` from the real bindings; enum values come from the headers (include/NvInfer*.h), operators from the
importers of onnx/onnx-tensorrt, and the types that they take from its docs/operators.md. The other files hold what a
release lacks of a later one that it is `like`, and the `source` that says so: python/src, which gives the very names of
`dir()` for the releases that were read both ways.
"""

import json
from pathlib import Path
from types import ModuleType

from ..not_simulated import Unsimulated

RELEASES = ("8.2.1", "8.5.2", "8.5.3", "8.6.1", "8.6.2", "10.3.0", "10.13.3", "10.16.1", "11.4.0")
FOLDER = Path(__file__).parent / "names"

# What is the same in all of them (python/src/infer/pyCore.cpp, include/NvInferRuntime.h at these tags).
SINCE_8_2 = {
    "EngineInspector": ("execution_context", "error_recorder", "get_engine_information", "get_layer_information")
}
ENUMS_SINCE_8_2 = {"LayerInformationFormat": {"ONELINE": 0, "JSON": 1}}


class Api:
    """The names of one release."""

    def __init__(self, release):
        if release not in RELEASES:
            raise ValueError(f"no such simulated release: {release}; there are {', '.join(RELEASES)}")
        content = _content(release)
        self.release = release
        self.version = content["version"]
        self.number = tuple(int(n) for n in release.split("."))
        self.opset = content["opset"]
        self.top = frozenset(content["top"])
        self.classes = {name: frozenset(names) for name, names in {**SINCE_8_2, **content["classes"]}.items()}
        self.enums = {**ENUMS_SINCE_8_2, **content["enums"]}
        self.operators = frozenset(content["operators"])
        self.types = {name: frozenset(types) for name, types in content["types"].items()}

    def sentence(self, owner, name):
        return f"{owner!r} has no attribute {name!r}: TensorRT {self.release} has no such name"


def _content(release):
    """The file of a release, made whole where it says what it lacks of another."""
    content = json.loads((FOLDER / f"tensorrt-{release}.json").read_text())
    if "like" not in content:
        return content
    gone = {"top": [], "classes": {}, "enums": {}, **content.get("without", {})}
    whole = _content(content["like"])
    whole["top"] = _less(whole["top"], gone["top"])
    for kind in ("classes", "enums"):
        for name, names in gone[kind].items():
            whole[kind][name] = _less(whole[kind][name], names)
    return {**whole, "version": content["version"]}


def _less(names, gone):
    """A list of names, or a table of an enum's values by name, without some of them, which must be there."""
    missing = set(gone) - set(names)
    if missing:
        raise ValueError(f"not among the names: {sorted(missing)}")
    return {k: v for k, v in names.items() if k not in gone} if isinstance(names, dict) else [*({*names} - {*gone})]


class _UnsimulatedMember:
    """The same for a member of a class, for reading and for setting."""

    def __init__(self, name):
        self._name = name

    def __get__(self, instance, owner=None):
        return Unsimulated(self._name)

    def __set__(self, instance, value):
        Unsimulated(self._name)._refuse()


class _Named(type):
    """Class attributes that do not exist are refused with the release in the sentence too."""

    def __getattr__(cls, name):
        raise AttributeError(cls._api.sentence(f"tensorrt.{cls.__name__}", name))


def restricted(api, name, implementation):
    """A class with the public names that the release's `name` has, implemented by those of `implementation`."""
    content = {key: value for key, value in vars(implementation).items() if key.startswith("_")}
    for unwanted in ("__dict__", "__weakref__", "__qualname__"):
        content.pop(unwanted, None)
    for public in api.classes[name]:
        content[public] = vars(implementation).get(public) or _UnsimulatedMember(f"{name}.{public}")
    content.update(_api=api, __getattr__=_no_such_name, __setattr__=_set_known, __module__="tensorrt")
    return _Named(name, (), content)


def _no_such_name(self, name):
    raise AttributeError(self._api.sentence(f"tensorrt.{type(self).__name__}", name))


def _set_known(self, name, value):
    """pybind11's classes have no __dict__: only properties with a setter can be assigned."""
    if not name.startswith("_") and not hasattr(type(self).__dict__.get(name), "__set__"):
        raise AttributeError(self._api.sentence(f"tensorrt.{type(self).__name__}", name))
    object.__setattr__(self, name, value)


class Enum:
    """A member of a pybind11 enum: it has name, value and int(), and is equal to members of its own enum only."""

    __slots__ = ("name", "value")

    def __init__(self, name, value):
        self.name, self.value = name, value

    def __int__(self):
        return self.value

    __index__ = __int__

    def __eq__(self, other):
        return type(self) is type(other) and self.value == other.value

    def __hash__(self):
        return hash(self.value)

    def __str__(self):
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self):
        return f"<{self}: {self.value}>"


class ArithmeticEnum(Enum):
    """One declared with py::arithmetic(): its members are in order, among themselves."""

    __slots__ = ()

    def _compared(self, other):
        if type(self) is not type(other):
            raise TypeError("Expected an enumeration of matching type!")
        return self.value - other.value

    def __lt__(self, other):
        return self._compared(other) < 0

    def __le__(self, other):
        return self._compared(other) <= 0

    def __gt__(self, other):
        return self._compared(other) > 0

    def __ge__(self, other):
        return self._compared(other) >= 0


ARITHMETIC = ("BuilderFlag", "NetworkDefinitionCreationFlag", "Severity")


def enum(api, name, values):
    """A pybind11 enum with `__members__`; members are attributes of the class."""
    base = ArithmeticEnum if name in ARITHMETIC else Enum
    made = _Named(name, (base,), {"__slots__": (), "_api": api, "__module__": "tensorrt"})
    members = {key: made(key, value) for key, value in values.items()}
    for key, value in {**members, "__members__": members}.items():
        setattr(made, key, value)
    return made


class ReleaseModule(ModuleType):
    """`tensorrt` itself: names outside the release's list do not exist."""

    def __init__(self, name, api):
        super().__init__(name, f"A simulation of TensorRT {api.release}: see tests/simulation/README.md")
        self._api = api

    def __getattr__(self, name):
        if name in self.__dict__["_api"].top:
            return Unsimulated(f"tensorrt.{name}")
        raise AttributeError(self.__dict__["_api"].sentence("module 'tensorrt'", name))
