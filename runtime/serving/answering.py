"""Requests of many domains answered together: those that may share a run of the engine are put into one."""

from collections import OrderedDict
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..engine import Runtime
from ..errors import Da3Error, ImageError
from ..records import Array, Prediction
from ..system.ahead import done_ahead
from .held import Held, held_name
from .requests import Asked, Options, preprocessed

Answer = Union[List[Prediction], Exception]


class _Place(NamedTuple):
    """One picture: of which request, and which of its pictures."""

    request: int
    picture: int


class Answered(NamedTuple):
    """The answer to a request, a Prediction for each of its pictures or what is wrong with it; domain: its name, None
    where it could not be read."""

    domain: Optional[str]
    answer: Answer


class Answerer:
    """Answers requests with a Runtime."""

    def __init__(self, runtime: Runtime, held: Held, batch_size: int, workers: int) -> None:
        """batch_size: pictures per run of the engine; workers: threads that decode while it runs."""
        self._runtime, self._held, self._batch_size, self._workers = runtime, held, batch_size, workers

    def answer(self, requests: Sequence[Asked]) -> List[Answered]:
        """One for each request, in their order. What is wrong with one does nothing to the others."""
        groups: "OrderedDict[Tuple[int, Options], List[_Place]]" = OrderedDict()
        for i, asked in enumerate(requests):
            places = [_Place(i, n) for n in range(len(asked.pictures))]
            groups.setdefault((asked.number, asked.options), []).extend(places)
        found: Dict[_Place, Prediction] = {}
        errors: Dict[int, Exception] = {}
        names: Dict[int, str] = {}
        ahead = self._pixels(requests, [place for places in groups.values() for place in places])
        try:
            for (number, options), places in groups.items():
                try:
                    # Not before: with few domains in memory, those that are taken for others would push it out.
                    names[number] = self._held.take(number)
                except Da3Error as error:
                    errors.update((place.request, error) for place in places)
                self._answer_group(number, names, options, len(places), ahead, found, errors)
        finally:
            ahead.close()
        answered: List[Answered] = []
        for i, asked in enumerate(requests):
            own: Answer = errors[i] if i in errors else [found[_Place(i, n)] for n in range(len(asked.pictures))]
            answered.append(Answered(names.get(asked.number), own))
        return answered

    def _answer_group(
        self,
        number: int,
        names: Dict[int, str],
        options: Options,
        count: int,
        ahead: Iterator[Tuple[_Place, Union[Array, Da3Error]]],
        found: Dict[_Place, Prediction],
        errors: Dict[int, Exception],
    ) -> None:
        """Take the next `count` pictures, which are of one domain, and run those of requests with nothing wrong."""
        waiting: List[Tuple[_Place, Array]] = []
        for left in reversed(range(count)):
            place, pixels = next(ahead)
            if isinstance(pixels, Da3Error):
                errors.setdefault(place.request, _of_picture(pixels, place))
            elif place.request not in errors:
                waiting.append((place, pixels))
            if waiting and (left == 0 or len(waiting) == self._batch_size):
                self._run(number, names[number], options, waiting, found, errors)
                waiting = []

    def _run(
        self,
        number: int,
        name: str,
        options: Options,
        waiting: List[Tuple[_Place, Array]],
        found: Dict[_Place, Prediction],
        errors: Dict[int, Exception],
    ) -> None:
        images = self._runtime.preprocessing.normalise(np.stack([pixels for _, pixels in waiting]))
        try:
            result = self._runtime.run_batch(
                images,
                held_name(number),
                force_all_blocks=options.force_all_blocks,
                leave_at=options.leave_at,
            )
            predictions = self._runtime.predictions(result, options.unknown_below)
        except Exception as error:  # what happens to one domain, whatever it is, is no business of the others
            for place, _ in waiting:
                errors.setdefault(place.request, _by_its_name(error, number, name))
            return
        found.update((place, prediction) for (place, _), prediction in zip(waiting, predictions))

    def _pixels(self, requests: Sequence[Asked], places: List[_Place]) -> Any:
        """(place, its pixels or what is wrong with the picture), in order, decoded ahead of their use."""
        prep = self._runtime.preprocessing

        def decoded(place: _Place) -> Tuple[_Place, Union[Array, Da3Error]]:
            try:
                return place, preprocessed(requests[place.request].pictures[place.picture], prep)
            except Da3Error as error:
                return place, error

        return done_ahead(decoded, places, self._workers, self._batch_size)


def _of_picture(error: Da3Error, place: _Place) -> Da3Error:
    return ImageError("picture %d of the request: %s" % (place.picture, error))


def _by_its_name(error: Exception, number: int, name: str) -> Exception:
    """What the Runtime says of a domain, with the name that the domain has outside."""
    if isinstance(error, Da3Error):
        return type(error)(str(error).replace(held_name(number), name))
    return error
