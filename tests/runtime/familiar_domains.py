"""A domain of the synthetic bundle that knows what its pictures look like: those of one seed are its own."""

import numpy as np
from synthetic_bundle import images

from da3.runtime import Runtime
from da3.runtime.bundle import seen_values, update_familiar
from da3.runtime.familiarity import calibrate, fit, wanted_values

OWN = 60  # pictures that it is fitted to, and as many that it is calibrated on


def own_images(count, seed=21):
    """float32 (count, 3, S, S): of one colour, more or less, where those of `images` are noise."""
    random = np.random.RandomState(seed)
    colour = np.array([0.6, -0.4, 0.2]).reshape(3, 1, 1) * random.uniform(0.7, 1.3, (count, 3, 1, 1))
    return (colour + 0.2 * images(count, seed)).astype(np.float32)


def with_familiar(bundle, name):
    """Show the domain its pictures; returns what it takes them for."""
    with Runtime(bundle, backend="reference") as runtime:
        places = wanted_values(*seen_values(runtime.bundle.manifest))
        _, seen = runtime.features(own_images(OWN), name)
        looks = fit(seen, np.arange(OWN) % 3)
        result, held_out = runtime.features(own_images(OWN, 22), name)
        familiar = calibrate(places, looks, held_out, result.logits, OWN)
    update_familiar(bundle, name, familiar)
    return familiar
