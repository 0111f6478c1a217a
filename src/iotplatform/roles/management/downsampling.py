"""Largest Triangle Three Buckets: few points whose line looks like that of many."""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Sequence


def chosen(times: array[int], values: array[float], points: int) -> Sequence[int]:
    """The places of `points` of them, the first and the last among them; of all when they are no more."""
    if len(times) <= points:
        return range(len(times))
    # Imported when it is needed: with NumPy it takes more memory than all the rest of a small platform.
    numpy, tsdownsample = importlib.import_module("numpy"), importlib.import_module("tsdownsample")
    places: list[int] = (
        tsdownsample.LTTBDownsampler()
        .downsample(numpy.frombuffer(times, numpy.int64), numpy.frombuffer(values, numpy.float64), n_out=points)
        .tolist()
    )
    return places
