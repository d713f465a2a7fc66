"""Two evaluations of the same photos: how much better one is, and whether that could be luck."""

import math
from typing import Dict, NamedTuple, Optional

from ..errors import DataError


class Verdict(NamedTuple):
    """A photo's answer, by the names of classes. nbytes: the size of its file, None if that is not known."""

    label: str
    answer: str
    nbytes: Optional[int] = None


Verdicts = Dict[str, Verdict]  # by the photo's name


class Comparison(NamedTuple):
    """Of the photos that both answered. both, only_first, only_second, neither: how many were answered right by whom.
    same_answer: how many have the same answer, right or wrong. difference: accuracy of the first less that of the
    second, -1 to 1; standard_error: of that. p: McNemar's exact test, two-sided."""

    photos: int
    both: int
    only_first: int
    only_second: int
    neither: int
    same_answer: int
    difference: float
    standard_error: float
    p: float


def compare(first: Verdicts, second: Verdicts) -> Comparison:
    """Pair the answers photo by photo, by name and size of its file: the photos of train/ and val/ may have the same
    names. Raises DataError if no photo is in both, or one bears two labels.

    The standard error of the difference of paired shares is sqrt(b + c - (b - c)^2 / n) / n (Agresti, Categorical Data
    Analysis, 11.1), b and c being the photos that only one of the two answers right.
    """
    names = [name for name in first if name in second and _same_file(first[name], second[name])]
    if not names:
        raise DataError("the two evaluations have no photo in common: evaluate both on the same folder or CSV")
    counts = {(a, b): 0 for a in (False, True) for b in (False, True)}
    same = 0
    for name in names:
        one, other = first[name], second[name]
        if one.label != other.label:
            raise DataError(
                "%s is labelled %r in one evaluation and %r in the other: evaluate both on the same labels"
                % (name, one.label, other.label)
            )
        counts[one.answer == one.label, other.answer == other.label] += 1
        same += one.answer == other.answer
    n, b, c = len(names), counts[True, False], counts[False, True]
    return Comparison(
        photos=n,
        both=counts[True, True],
        only_first=b,
        only_second=c,
        neither=counts[False, False],
        same_answer=same,
        difference=(b - c) / float(n),
        standard_error=math.sqrt(b + c - (b - c) ** 2 / float(n)) / n,
        p=exact_mcnemar(b, c),
    )


def _same_file(one: Verdict, other: Verdict) -> bool:
    return None in (one.nbytes, other.nbytes) or one.nbytes == other.nbytes


def exact_mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's test (Psychometrika 12, 1947) by the binomial distribution itself, two-sided: how often b and c photos
    would be split at least so unevenly if either were as likely to be the right one.

        p = min(1, 2 sum_{i = 0}^{min(b, c)} C(b + c, i) / 2^(b + c))

    In whole numbers, so it is exact for any count.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    term = total = 1  # C(n, 0)
    for i in range(fewer):
        term = term * (n - i) // (i + 1)
        total += term
    return min(1.0, 2 * total / (1 << n))
