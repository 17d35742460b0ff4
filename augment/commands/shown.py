"""What a store holds of one image, gathered for a person to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from augment.artifacts import BACKGROUND, CAPTION, MATTE, PLATE, PROMPT, Image, Matte, Prompt
from augment.errors import CorruptEntry
from augment.imaging.composite import composite
from augment.imaging.fit import cover
from augment.prewarming.source import Files
from augment.stages.base import Kind
from augment.stages.kinds import base_class
from augment.store.entries import Provenance
from augment.store.reader import Reader
from augment.store.records import Record

_CHECK = 16  # pixels of a square of the checkerboard
_LIGHT, _DARK = 255, 235


@dataclass(frozen=True, eq=False)
class Stored:
    """One artifact: what it is, how it was made, the bytes it takes."""

    kind: Kind[Any]
    variant: int | None
    name: str
    artifact: Any
    provenance: Provenance
    nbytes: int


@dataclass(eq=False)
class Shown:
    """One image of a store: everything that was made of it, and its own pixels if its file is still there."""

    key: str
    made: list[Stored] = field(default_factory=list)
    image: Image | None = None

    @property
    def matte(self) -> Matte | None:
        """Its matte."""
        made = self.of(MATTE.name)
        return made[0].artifact if made else None

    @property
    def plate(self) -> Image | None:
        """Its plate."""
        made = self.of(PLATE.name)
        return made[0].artifact if made else None

    @property
    def caption(self) -> str | None:
        """Its caption."""
        made = self.of(CAPTION.name)
        return made[0].artifact if made else None

    @property
    def source(self) -> str | None:
        """Its path, or what its Dataset called it."""
        source = self._note("source")
        return source if isinstance(source, str) else None

    @property
    def group(self) -> str | None:
        """Its class."""
        group = self._note("group")
        return group if isinstance(group, str) else None

    def of(self, artifact: str) -> list[Stored]:
        """What was made of that artifact; of several stages that make it, what the last one made."""
        found = {made.variant: made for made in self.made if made.name.startswith(f"{artifact}/")}
        return [found[variant] for variant in sorted(found, key=lambda variant: variant or 0)]

    def prompt(self, variant: int | None) -> Prompt | None:
        """The prompt of a variant."""
        return next((made.artifact for made in self.of(PROMPT.name) if made.variant == variant), None)

    def pictures(self) -> Iterator[tuple[str, Stored | None, Image]]:
        """Title, artifact and pixels of each picture to show, all of the image's size."""
        matte = self.matte
        if self.image is not None:
            yield "original", None, self.image
        if matte is None:
            return
        height, width = matte.size
        yield "object", self.of(MATTE.name)[0], on_checks(self.image, matte)
        if self.plate is not None:
            yield "plate", self.of(PLATE.name)[0], cover(self.plate, height, width)
        for made in self.of(BACKGROUND.name):
            background = cover(made.artifact, height, width)
            yield f"background {made.variant}", made, background
            if self.image is not None and not matte.unusable:
                yield f"composite {made.variant}", None, composite(self.image, matte, background)

    def _note(self, name: str) -> Any:
        return next((made.provenance[name] for made in self.made if made.provenance.get(name) is not None), None)


def kinds_of(record: Record) -> list[Kind[Any]]:
    """The kinds that a recipe's record tells of; one whose backend is not installed here is left out."""
    bases = (base_class(name) for name in record.fingerprints)
    return [base.kind for base in bases if base is not None and base.kind.makes is not None]


def show(reader: Reader, kinds: Sequence[Kind[Any]], key: str, pixels: bool = True) -> Shown:
    """Everything that the store holds of an image; its file is decoded if `pixels` are asked for."""
    shown = Shown(key)
    for kind in kinds:
        for variant in range(reader.record.variants) if kind.per_variant else [None]:
            if made := _made(reader, kind, key, variant):
                shown.made.append(made)
    if pixels:
        shown.image = _pixels(shown.source, key)
    return shown


def on_checks(image: Image | None, matte: Matte) -> Image:
    """The object over a gray checkerboard, the usual sign for transparency; without the image, the matte's white."""
    height, width = matte.size
    rows, columns = np.arange(height)[:, None] // _CHECK, np.arange(width)[None] // _CHECK
    checks = np.where((rows + columns) % 2, _DARK, _LIGHT).astype(np.uint8)
    if image is None:
        return np.asarray(cv2.cvtColor(matte.uncropped(), cv2.COLOR_GRAY2RGB))
    return composite(image, matte, np.repeat(checks[..., None], 3, axis=2))


def _made(reader: Reader, kind: Kind[Any], key: str, variant: int | None) -> Stored | None:
    assert kind.makes is not None
    name = reader.name(kind.makes, key, variant, fingerprint=reader.record.fingerprints[kind.name])
    entry = reader.store.entry(name)
    if entry is None:
        return None
    try:
        return Stored(kind, variant, name, kind.makes.decode(entry.payload), entry.provenance, len(entry.payload))
    except CorruptEntry as error:
        reader.store.report_damage(name, error)
        return None


def _pixels(source: str | None, key: str) -> Image | None:
    """The image itself, if the file is still there and has not been changed."""
    if source is None or not Path(source).is_file():
        return None
    loaded = Files([Path(source)])[0]
    return next((item.image for item in loaded.items if item.key == key), None)
