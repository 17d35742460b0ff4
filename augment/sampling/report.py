"""What happened to a sample, for the training loop: to weigh its loss, or to look at it."""

from __future__ import annotations

from typing import TypedDict

from augment.sampling.outcomes import Outcome

NAME = "report"  # under which a sample that is a dict holds it


class Report(TypedDict):
    """What happened to a sample. No value is None, so that torch's `default_collate` batches reports.

    `replaced` says whether it has a new background. `outcome` is what the sample is counted as (see `counts`: "hits",
    "misses", …), or "not drawn" if it was not to be replaced; `detail` says more, or is empty. Of a new background,
    `source` is the source's name, `key` the key of the image that it was made for, and `variant` its number, which is
    -1 for a plate; otherwise they are empty, and -1. If the sample has several images, they are those of the first one.
    """

    replaced: bool
    outcome: str
    detail: str
    source: str
    key: str
    variant: int


def report_of(outcome: Outcome | None) -> Report:
    """The report of an outcome; None if the sample was not to be replaced."""
    if outcome is None:
        outcome = Outcome([], "not drawn")
    source, key, variant = outcome.replacements[0].drawn if outcome.replacements else ("", "", None)
    return {
        "replaced": bool(outcome.replacements),
        "outcome": outcome.name,
        "detail": outcome.detail,
        "source": source,
        "key": key,
        "variant": -1 if variant is None else variant,
    }
