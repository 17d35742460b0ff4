"""The report of a prewarm: counts, and a list of failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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
    """The part of one stage: artifacts computed and found, rejected seeds by reason, wall seconds, bytes written."""

    computed: int = 0
    found: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    nbytes: int = 0


@dataclass
class Report:
    """The result of a prewarm.

    `images` counts distinct images; a file with an EXIF orientation counts as two, rotated and not. `complete` counts
    those that have all their variants, `unusable` those whose matte must not be used, by reason. `failures` lists
    everything that went wrong.
    """

    images: int = 0
    complete: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
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
        unusable = sum(self.unusable.values())
        lines = [
            f"{self.images} images: {self.complete} complete, {unusable} with an unusable matte, "
            f"{len(self.failures)} failures; {self.nbytes / 1e6:.1f} MB written in {self.seconds:.1f} s"
        ]
        for kind, stage in self.stages.items():
            rejected = "".join(f", {count} rejected as {reason}" for reason, count in stage.rejected.items())
            lines.append(
                f"  {kind:<9}{stage.computed:>6} computed, {stage.found} found{rejected}; "
                f"{stage.nbytes / 1e6:.1f} MB, {stage.seconds:.1f} s"
            )
        lines += [f"  unusable  {count:>6} {reason}" for reason, count in self.unusable.most_common()]
        lines += [f"  failed    {failure}" for failure in self.failures]
        return "\n".join(lines)
