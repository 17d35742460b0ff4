"""One message for any number outside its range."""

from __future__ import annotations

import numpy as np

from augment.errors import InputError


def check_range(name: str, value: object, most: float = 1) -> None:
    """Raise InputError, naming the argument, unless the value is a number from 0 to `most`."""
    if not isinstance(value, int | float | np.floating) or not 0 <= value <= most:
        raise InputError(f"{name}: {value!r} is not within 0 … {most:g}")
