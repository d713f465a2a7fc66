"""How a request says which domain it is for.

Triton hands a request on from an ensemble to the model of its step, with its parameters, and without the ensemble's
name. What differs from one ensemble to the next is which of the step's outputs it asks for. So the runtime has some of
its outputs 64 times, `label_0` to `label_63` beside `probability_0` ... and `exit_0` ..., and the three that an
ensemble asks for are the digits of its domain's number, to the base of 64. Inputs would do as well, but Triton's
dynamic batcher puts only requests with the same inputs into one batch, and domains are to be batched together.
"""

from typing import Dict, Iterable, List, Optional

CARRIERS = ("label", "probability", "exit")  # outputs whose names carry a digit, the highest first
BASE = 64
MOST = BASE ** len(CARRIERS)  # numbers that there are; none is ever given twice


def asked_names(number: int) -> Dict[str, str]:
    """What the ensemble of a domain with this number, 0 to MOST - 1, calls the outputs that it asks for: the runtime's
    name of each carrier."""
    digits: List[int] = []
    for _ in CARRIERS:
        number, digit = divmod(number, BASE)
        digits.append(digit)
    return {carrier: "%s_%d" % (carrier, digit) for carrier, digit in zip(CARRIERS, reversed(digits))}


def all_names(carrier: str) -> List[str]:
    """All of the runtime's names of one carrier."""
    return ["%s_%d" % (carrier, digit) for digit in range(BASE)]


def asked_number(outputs: Iterable[str]) -> Optional[int]:
    """The number of the domain by the names of the outputs that a request asks for; None where they say none, as of a
    request that did not come through an ensemble of ours."""
    digits: Dict[str, int] = {}
    for name in outputs:
        carrier, _, digit = name.rpartition("_")
        if carrier not in CARRIERS or not digit.isdigit():
            continue
        if carrier in digits or int(digit) >= BASE:
            return None
        digits[carrier] = int(digit)
    if len(digits) != len(CARRIERS):
        return None
    number = 0
    for carrier in CARRIERS:
        number = number * BASE + digits[carrier]
    return number
