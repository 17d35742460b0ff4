"""The report of a prewarm: counts, and a list of failures."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from augment.errors import InputError
from augment.files import check_file
from augment.prewarming.folders import said

_LISTED = 3  # items that failed for one reason are listed one by one up to this number
_NAMED = 10  # items of a kind that the printed report names


@dataclass(frozen=True)
class Failure:
    """An item that failed: which one, at which stage, and why."""

    source: str
    stage: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.stage}: {self.reason}"


@dataclass
class StageReport:
    """The part of one stage: artifacts computed and found, rejected seeds by reason, what is to be said of those
    computed (see `Artifact.remark`), wall seconds, bytes written."""

    computed: int = 0
    found: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    nbytes: int = 0


@dataclass
class Report:
    """The result of a prewarm.

    `images` counts distinct images; a file with an EXIF orientation counts as two, rotated and not. `complete` counts
    those that have all their variants, `unusable` those whose matte must not be used, by reason; `refused` names them.
    `failures` lists everything that went wrong. `passed_over` counts files that are no images, by extension;
    `duplicates` are pictures that were found in two groups; `notes` count what is odd about images, `remarks`
    are sentences about the whole run. `what` is the word for what `images` counts: "scenes" if they were made from
    prompts.
    """

    what: str = "images"
    images: int = 0
    complete: int = 0
    unfit: int = 0  # left out because the cache's size limit is too low
    unusable: Counter[str] = field(default_factory=Counter)
    refused: list[Failure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    duplicates: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    stages: dict[str, StageReport] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall seconds of all stages."""
        return sum(stage.seconds for stage in self.stages.values())

    @property
    def nbytes(self) -> int:
        """Bytes written."""
        return sum(stage.nbytes for stage in self.stages.values())

    def __str__(self) -> str:
        mattes = f"{sum(self.unusable.values())} with an unusable matte, " if self.what == "images" else ""
        lines = [
            f"{self.images} {self.what}: {self.complete} complete, {mattes}{len(self.failures)} failures; "
            f"{self.nbytes / 1e6:.1f} MB written in {self.seconds:.1f} s"
        ]
        for kind, stage in self.stages.items():
            rejected = "".join(f", {count} rejected as {reason}" for reason, count in stage.rejected.items())
            lines.append(
                f"  {kind:<9}{stage.computed:>6} computed, {stage.found} found{rejected}; "
                f"{stage.nbytes / 1e6:.1f} MB, {stage.seconds:.1f} s"
            )
        lines += [
            f"  {kind}: {count} of {stage.computed} {remark}"
            for kind, stage in self.stages.items()
            for remark, count in stage.remarks.most_common()
        ]
        if self.unfit:
            lines.append(
                f"  unfit     {self.unfit:>6} do not fit within the cache's size limit: raise it (`augment prewarm "
                f"--size-limit`), or ask for fewer {'variants' if self.what == 'images' else self.what}"
            )
        lines += [f"  unusable  {count:>6} {reason}" for reason, count in self.unusable.most_common()]
        lines += [f"            {failure.source}: {failure.reason}" for failure in self.refused[:_NAMED]]
        lines += _more(self.refused)
        lines += _grouped(self.failures)
        lines += [f"  note      {count} images {note}" for note, count in self.notes.most_common()]
        lines += [f"  note      {remark}" for remark in self.remarks]
        lines += [f"  twice     {pair}" for pair in self.duplicates[:_NAMED]] + _more(self.duplicates)
        if self.passed_over:
            lines.append(f"  passed over: {said(self.passed_over)}")
        return printable("\n".join(lines))

    def save(self, path: str | Path) -> None:
        """Write every refused and failed item with its stage and reason to `path`, a .csv or .json file.

        Raises InputError if it is neither, or cannot be written.
        """
        rows = [
            {"source": printable(item.source), "stage": item.stage, "outcome": outcome, "reason": item.reason}
            for outcome, items in (("unusable", self.refused), ("failed", self.failures))
            for item in items
        ]
        path = Path(path)
        try:
            if path.exists():
                check_file(path)
            if path.suffix.lower() == ".json":
                counts = {"images": self.images, "complete": self.complete, "unusable": dict(self.unusable)}
                path.write_text(json.dumps(counts | {"items": rows}, indent=1, ensure_ascii=False), encoding="utf-8")
            elif path.suffix.lower() == ".csv":
                with path.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, ["source", "stage", "outcome", "reason"])
                    writer.writeheader()
                    writer.writerows(rows)
            else:
                raise InputError(f"{path}: a report is a .csv or a .json file")
        except OSError as error:
            raise InputError(f"{path}: the report cannot be written: {error.strerror}") from error


def same_words(reason: str) -> str:
    """A reason without what differs from item to item: numbers and long hexadecimal names."""
    return re.sub(r"\b0x[a-f\d]+|\b(?=[a-f\d-]*\d)[a-f\d-]{8,}\b|\d+(?:\.\d+)?", "#", reason, flags=re.IGNORECASE)


def _grouped(failures: Sequence[Failure]) -> list[str]:
    """A line for each failure, or for each reason with a count and an example if many items failed for it."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.stage, same_words(failure.reason)), []).append(failure)
    lines = []
    for group in sorted(groups.values(), key=len, reverse=True):
        if len(group) <= _LISTED:
            lines += [f"  failed    {failure}" for failure in group]
        else:
            first = group[0]
            lines.append(f"  failed    {len(group):>6} {first.stage}: {first.reason} (for example {first.source})")
    return lines


def printable(text: str) -> str:
    """Text that can be printed and stored: bytes of a file name that are not UTF-8 become question marks."""
    return os.fsencode(text).decode(errors="replace") if _has_surrogates(text) else text


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _more(items: Sequence[object]) -> list[str]:
    left = len(items) - _NAMED
    return [f"            … and {left} more: `--report FILE.csv` lists all"] if left > 0 else []
