"""What a saliency network's raw prediction says: which pixels are object, and how sure the network is of that."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Lanczos ringing and a network's haze over the whole background would stretch the matte's box to the image's; 5 % is
# visible neither at an edge nor as a ghost.
HAZE = 13

FLAT = "flat: the network predicts the same everywhere"


def is_flat(raw: NDArray[Any]) -> bool:
    """Whether the prediction is the same everywhere, or not a number somewhere."""
    return not np.isfinite(raw).all() or float(np.ptp(raw)) < 1e-6


def as_probability(raw: NDArray[Any]) -> NDArray[Any]:
    """The prediction as probabilities, 0 to 1, whether the network ends in a sigmoid or not."""
    if raw.min() < -0.01 or raw.max() > 1.01:
        return np.asarray(1 / (1 + np.exp(-raw.clip(-30, 30))))
    return raw


def confidence(probability: NDArray[Any]) -> float:
    """The mean probability of the predicted object, each pixel weighted by its own; 0 if there is none."""
    of_object = probability[probability > 0.1].astype(np.float64)
    return float((of_object**2).sum() / of_object.sum()) if of_object.size else 0.0


def doubt_reason(confidence: float, doubt: float) -> str | None:
    """The verdict on a matte whose confidence is below `doubt`; None if it is not."""
    return f"doubtful: confidence {confidence:.2f} is below {doubt:.2f}" if confidence < doubt else None
