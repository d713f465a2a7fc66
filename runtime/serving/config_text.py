"""config.pbtxt, Triton's description of a model: protobuf in its text form. The fields:
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto"""

from typing import Any, Dict, List, Optional, Tuple, Union

from ..errors import BundleError
from ..records import Domain
from .layout import FORMAT, LABELS, MOST_PICTURES, RUNTIME, Settings
from .numbers import CARRIERS, all_names, asked_names
from .tensors import FAMILIAR_OUTPUTS, OF_CLASSES, OUTPUTS, PICTURE, PIXELS, Tensor

_Fields = List[Tuple[str, Any]]  # of a message, in order; a list of fields is a message itself


class _Word(str):
    """A name of an enumeration, which stands without quotes."""


def runtime_config(settings: Settings, made_of: str) -> bytes:
    """Of the model that all domains share. made_of: tells one bundle from another, so that Triton loads the model again
    when the bundle changes."""
    outputs: List[Tensor] = []
    for tensor in OUTPUTS + FAMILIAR_OUTPUTS:
        names = all_names(tensor.name) if tensor.name in CARRIERS else [tensor.name]
        outputs.extend(tensor._replace(name=name) for name in names)
    parameters = dict(settings._asdict(), format=FORMAT, bundle=made_of)
    fields: _Fields = [
        ("name", RUNTIME),
        ("backend", "python"),
        ("max_batch_size", MOST_PICTURES),
        ("input", _tensor(PICTURE) + [("optional", True)]),
        # Pictures of several sizes go into one batch: the runtime gets them one by one in any case.
        ("input", _tensor(PIXELS) + [("optional", True), ("allow_ragged_batch", True)]),
    ]
    fields += [("output", _tensor(tensor)) for tensor in outputs]
    # No request waits for others to come: what has come while the engine ran is the next batch.
    fields += [("dynamic_batching", []), ("instance_group", [("count", 1), ("kind", _Word("KIND_CPU"))])]
    for key, value in sorted(parameters.items()):
        if value is not None:
            fields.append(("parameters", [("key", key), ("value", [("string_value", str(value))])]))
    return _text(fields)


def read_settings(config: Dict[str, Any], where: str) -> Settings:
    """The settings from a configuration as Triton hands it to the model. Raises BundleError for what is not ours."""
    found: Dict[str, Any] = {}
    for key, value in config.get("parameters", {}).items():
        found[key] = value.get("string_value", "")
    if found.get("format") != str(FORMAT):
        raise BundleError("%s was not written by this da3 (format %r, not %d)" % (where, found.get("format"), FORMAT))
    return Settings(
        found.get("backend", "auto"),
        found.get("precision"),
        _count(found, "threads", where),
        _count(found, "batch_size", where) or Settings().batch_size,
        _count(found, "domains_held", where) or Settings().domains_held,
    )


def _count(found: Dict[str, Any], key: str, where: str) -> Optional[int]:
    text = found.get(key)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise BundleError("%s: %s must be a positive number, not %r" % (where, key, text[:40]))
    return int(text)


def domain_config(domain: Domain, number: int) -> bytes:
    """Of the ensemble that is one domain."""
    wanted = OUTPUTS + (() if domain.familiar is None else FAMILIAR_OUTPUTS)
    fields: _Fields = [
        ("name", domain.name),
        ("platform", "ensemble"),
        ("max_batch_size", MOST_PICTURES),
        ("input", _tensor(PICTURE) + [("optional", True)]),
        ("input", _tensor(PIXELS) + [("optional", True)]),
    ]
    for tensor in wanted:
        if tensor.name in OF_CLASSES:
            sized = tensor._replace(dims=(len(domain.classes),))
            fields.append(("output", _tensor(sized) + [("label_filename", LABELS)]))
        else:
            fields.append(("output", _tensor(tensor)))
    asked = asked_names(number)
    step: _Fields = [("model_name", RUNTIME), ("model_version", -1)]
    step += [("input_map", _pair(name, name)) for name in (PICTURE.name, PIXELS.name)]
    step += [("output_map", _pair(asked.get(t.name, t.name), t.name)) for t in wanted]
    fields.append(("ensemble_scheduling", [("step", step)]))
    return _text(fields)


def labels_file(domain: Domain) -> bytes:
    """The classes, a line each, for clients that ask Triton itself for the best of a `probabilities`."""
    return "".join(name + "\n" for name in domain.classes).encode("utf-8")


def _tensor(tensor: Tensor) -> _Fields:
    fields: _Fields = [("name", tensor.name), ("data_type", _Word(tensor.type))]
    return fields + [("dims", n) for n in tensor.dims]


def _pair(key: str, value: str) -> _Fields:
    return [("key", key), ("value", value)]


def _text(fields: _Fields) -> bytes:
    return ("\n".join(_lines(fields, "")) + "\n").encode("utf-8")


def _lines(fields: _Fields, indent: str) -> List[str]:
    lines: List[str] = []
    for name, value in fields:
        if isinstance(value, list):
            lines += ["%s%s {" % (indent, name)] + _lines(value, indent + "  ") + ["%s}" % indent]
        else:
            lines.append("%s%s: %s" % (indent, name, _scalar(value)))
    return lines


def _scalar(value: Union[bool, int, str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (_Word, int)):
        return str(value)
    # Names of domains are letters, digits, "_" and "-", and settings are ours: nothing in them needs to be escaped.
    return '"%s"' % value.replace("\\", "\\\\").replace('"', '\\"')
