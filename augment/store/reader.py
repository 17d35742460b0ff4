"""The artifacts of one recipe in one store, decoded. Nothing else spells an entry's name."""

from __future__ import annotations

from typing import TypeVar

from augment.artifacts import BACKGROUND, MATTE, SCENE, STEP, Artifact, Image
from augment.errors import CorruptEntry
from augment.store.entries import Provenance, entry_name
from augment.store.records import Record, Store

T = TypeVar("T")


class Reader:
    """Reads what a store was filled with under a record. A damaged artifact is a miss, said once.

    An artifact is that of the record (for backgrounds: of the last stage that makes some); with `fingerprint`, that of
    any other stage.
    """

    def __init__(self, store: Store, record: Record) -> None:
        self.store = store
        self.record = record

    def name(
        self, artifact: Artifact[T], key: str, variant: int | None = None, *, fingerprint: str | None = None
    ) -> str:
        """The name that the artifact of an image is stored under."""
        return entry_name(artifact.name, fingerprint or self.record.artifacts[artifact.name], key, variant)

    def get(
        self,
        artifact: Artifact[T],
        key: str,
        variant: int | None = None,
        *,
        fingerprint: str | None = None,
        at_least: tuple[int, int] = (0, 0),
    ) -> T | None:
        """The artifact, or None; `at_least` as `augment.artifacts.decode_image` takes it, for images."""
        name = self.name(artifact, key, variant, fingerprint=fingerprint)
        data = self.store.get(name)
        return None if data is None else self._decoded(name, artifact, data, at_least)

    def find(
        self, artifact: Artifact[T], key: str, variant: int | None = None, *, fingerprint: str | None = None
    ) -> tuple[T, Provenance] | None:
        """The artifact with its provenance, by one lookup, or None."""
        name = self.name(artifact, key, variant, fingerprint=fingerprint)
        entry = self.store.entry(name)
        if entry is None:
            return None
        found = self._decoded(name, artifact, entry.payload, (0, 0))
        try:
            return None if found is None else (found, entry.provenance)
        except CorruptEntry as error:
            self.store.report_damage(name, error)
            return None

    def any_variant(
        self, artifact: Artifact[T], key: str, variants: int, uniform: float, at_least: tuple[int, int] = (0, 0)
    ) -> tuple[T, int] | None:
        """One of an image's variants with its number, picked by `uniform` in [0, 1); the next one if that failed to
        generate."""
        first = int(uniform * variants)
        for number in range(variants):
            variant = (first + number) % variants
            found = self.get(artifact, key, variant, at_least=at_least)
            if found is not None:
                return found, variant
        return None

    def keys(self, artifact: Artifact[T]) -> list[str]:
        """The keys of all images that have the artifact, sorted; takes a look at every entry of the store."""
        prefix = self.name(artifact, "")
        names = (name.removeprefix(prefix) for name in self.store.names() if name.startswith(prefix))
        return sorted({name.split("/")[0] for name in names})

    def group(self, key: str) -> str | None:
        """The class of an image, as the provenance of its matte has it: the one place where a group is kept."""
        provenance = self.store.provenance(self.name(MATTE, key))
        group = None if provenance is None else provenance.get("group")
        return group if isinstance(group, str) else None

    def steps(self, key: str, variant: int) -> list[tuple[str, Image]]:
        """The images on the way to a background, by name, in order; empty if none were kept."""
        name = self.name(BACKGROUND, key, variant)
        provenance = self.store.provenance(name) or {}
        found = []
        pictures = provenance.get("pictures")
        for step in pictures if isinstance(pictures, list) else []:
            data = self.store.get(step_name(name, step))
            image = None if data is None else self._decoded(name, STEP, data, (0, 0))
            if image is not None:
                found.append((str(step), image))
        return found

    def _decoded(self, name: str, artifact: Artifact[T], data: memoryview, at_least: tuple[int, int]) -> T | None:
        try:
            return artifact.decode(data, at_least) if all(at_least) else artifact.decode(data)
        except CorruptEntry as error:  # whole by its checksum, but not of this format: written by other code
            self.store.report_damage(name, error)
            return None


def rejection_name(background: str) -> str:
    """The name of the note that a person has rejected a background: how many tries at it are not to be made again."""
    return f"rejected/{background.partition('/')[2]}"


class SceneReader(Reader):
    """Reads scenes, and the drafts that they are made of, where a `Reader` reads backgrounds.

    `final` is the fingerprint of the stage that makes scenes; what an earlier one makes is kept as a step.
    """

    def __init__(self, store: Store, record: Record, final: str) -> None:
        super().__init__(store, record)
        self.final = final

    def name(
        self, artifact: Artifact[T], key: str, variant: int | None = None, *, fingerprint: str | None = None
    ) -> str:
        """The name that a scene or a draft is stored under."""
        name = entry_name(SCENE.name, fingerprint or self.final, key, variant)
        return name if fingerprint in (None, self.final) else step_name(name, "draft")


def step_name(background: str, step: str) -> str:
    """The name that an image on the way to a background is stored under."""
    return f"{STEP.name}/{background.partition('/')[2]}/{step}"
