"""What a request asks for, read from Triton's objects and checked: anyone may have sent it."""

import json
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from ..bundle.jsonfile import read_json
from ..errors import ImageError, quoted
from ..images.header import MOST_PIXELS
from ..images.preprocess import Preprocessing
from ..records import Array
from .layout import MOST_PICTURES
from .numbers import asked_number
from .tensors import PICTURE, PIXELS

_LONGEST = 1 << 16  # bytes of a request's parameters


class Options(NamedTuple):
    """What a request says by its parameters. force_all_blocks, leave_at, unknown_below: see `Runtime.run`."""

    force_all_blocks: bool = False
    leave_at: Optional[int] = None
    unknown_below: Optional[float] = None


class Asked(NamedTuple):
    """One request. number: of the domain; pictures: a file's bytes or uint8 (H, W, 3) each; outputs: the names that are
    asked for, as the runtime calls them."""

    number: int
    pictures: List[Union[bytes, Array]]
    options: Options
    top_k: int
    outputs: Tuple[str, ...]


def read_request(request: Any, pb_utils: Any) -> Asked:
    """request: pb_utils.InferenceRequest. Raises ImageError, in a sentence for whoever sent it."""
    outputs = tuple(request.requested_output_names())
    number = asked_number(outputs)
    if number is None:
        raise ImageError("this model is what all domains share: ask for a domain by its own name")
    options, top_k = _parameters(request.parameters())
    return Asked(number, _pictures(request, pb_utils), options, top_k, outputs)


def preprocessed(picture: Union[bytes, Array], prep: Preprocessing) -> Array:
    """A picture of a request -> uint8 (size, size, 3). Raises ImageError."""
    try:
        if isinstance(picture, bytes):
            return prep.load_bytes(picture, "the picture")
        return prep.resize_and_crop(picture)
    except MemoryError:
        raise ImageError("there is not enough memory to decode the picture: make it smaller first")


def _pictures(request: Any, pb_utils: Any) -> List[Union[bytes, Array]]:
    given: Dict[str, Array] = {}
    for name in (PICTURE.name, PIXELS.name):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is not None:
            given[name] = tensor.as_numpy()
    if len(given) != 1:
        raise ImageError(
            "give either `picture` (BYTES, the file) or `pixels` (UINT8, height x width x 3), not %s"
            % ("both" if given else "neither")
        )
    if PIXELS.name in given:
        pixels = given[PIXELS.name]
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[3] != 3 or 0 in pixels.shape:
            raise ImageError("expected pixels of shape (B, H, W, 3), not %s" % (pixels.shape,))
        if pixels.shape[1] * pixels.shape[2] > MOST_PIXELS:
            raise ImageError("pictures of %d x %d pixels are too large: make them smaller first" % pixels.shape[1:3])
        pictures: List[Union[bytes, Array]] = list(pixels)
    else:
        pictures = list(given[PICTURE.name].ravel())
        if not all(isinstance(item, bytes) for item in pictures):
            raise ImageError("`picture` must be bytes: what a picture file holds")
    if not 0 < len(pictures) <= MOST_PICTURES:
        raise ImageError("a request has 1 to %d pictures, not %d" % (MOST_PICTURES, len(pictures)))
    return pictures


def _parameters(text: str) -> Tuple[Options, int]:
    """Those that are not ours are left alone: servers and clients add some of their own."""
    try:
        given = read_json(text or "{}", _LONGEST)
    except ValueError as error:
        raise ImageError("the request's parameters cannot be read: %s" % error)
    if not isinstance(given, dict):
        raise ImageError("the request's parameters cannot be read: they are no object")
    force = given.get("force_all_blocks", False)
    if not isinstance(force, bool):
        raise ImageError("parameter force_all_blocks must be true or false, not %s" % quoted(force))
    below = given.get("unknown_below")
    if below is not None:
        below = _number(below)
        if below is None or not 0 <= below <= 1:
            raise ImageError("parameter unknown_below must be from 0 to 1, not %s" % quoted(given["unknown_below"]))
    top_k = _count(given, "top_k", 1)
    return Options(force, _count(given, "leave_at", 0), below), 1 if top_k is None else top_k


def _count(given: Dict[str, Any], key: str, least: int) -> Optional[int]:
    value = given.get(key)
    if value is None:
        return None
    number = _number(value)
    if number is None or number != int(number) or not least <= number < 1 << 31:
        raise ImageError("parameter %s must be an integer of at least %d, not %s" % (key, least, quoted(value)))
    return int(number)


def _number(value: Any) -> Optional[float]:
    """A parameter as a number; older clients can send fractions only as text."""
    if isinstance(value, str) and len(value) < 32:
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = float(value)
    return number if number - number == 0 else None
