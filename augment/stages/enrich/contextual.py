"""Find what is in a background, have a language model say how each thing should look there, and repaint it so."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import xxhash
from pydantic import Field, InstanceOf

from augment.artifacts import Image, Prompt, Rejected
from augment.detect import Detector
from augment.errors import ItemFailed
from augment.stages.base import Stage
from augment.stages.coco import equivalents
from augment.stages.detector import DETECTORS, MaskRcnn
from augment.stages.enrich.chats import CHATS, Gpt4All, Talker
from augment.stages.enrich.diffusers import Diffusers
from augment.stages.enrich.objects import Found, choose, feathered, laid_over, window
from augment.stages.enrich.repaint import INPAINTERS, Painter
from augment.stages.enrich.steps import Enriched, Step
from augment.stages.enrich.subprompts import negative, question, subprompts, template

logger = logging.getLogger(__name__)

_FEATHER = 0.008  # of the image's diagonal: 6 pixels at 512 x 512


@dataclass(eq=False)
class _Scene:
    """A background at work: what it was asked to be, what it is now, and what was done to it."""

    prompt: Prompt
    group: str | None
    seed: int
    image: Image
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Contextual(Stage):
    """Detector, language model and inpainter in turn, `depth` times over.

    In each round the largest objects found are repainted one after the other, each with a sub-prompt that the language
    model writes in the light of the background's own prompt; where it has none that can be used, the sub-prompt is the
    label with that prompt. What is found as the image's own object's class is left alone: whether it may be there at
    all is the guard's to say. Pixels outside the masks stay as they are. The three models are in memory together.

    - `depth`: rounds.
    - `max_objects`: objects a round, the largest; those smaller than `min_area` (share of the image) do not count, nor
      do those scored below `detector.score`.
    - `context`: how much an inpainter sees around an object, as a share of the object's longer side.
    - `keep_steps`: keep the image after each object, to look at; see `Chain.steps`.
    - `batch_size`: images at once.
    - `detector`, `chat`, `inpainter`: who does it, each a table with a `backend`.
    """

    backend: ClassVar[str] = "contextual"
    execution_only: ClassVar[frozenset[str]] = frozenset({"keep_steps", "batch_size"})
    parts: ClassVar[Mapping[str, Mapping[str, type[Stage]]]] = {
        "detector": DETECTORS,
        "chat": CHATS,
        "inpainter": INPAINTERS,
    }

    depth: Annotated[int, Field(ge=1, le=5)] = 1
    max_objects: Annotated[int, Field(ge=1)] = 4
    min_area: Annotated[float, Field(ge=0, le=1)] = 0.01
    context: Annotated[float, Field(ge=0)] = 0.5
    keep_steps: bool = False
    batch_size: Annotated[int, Field(ge=1)] = 8
    detector: InstanceOf[Stage] = field(default_factory=MaskRcnn)
    chat: InstanceOf[Stage] = field(default_factory=Gpt4All)
    inpainter: InstanceOf[Stage] = field(default_factory=Diffusers)

    def __call__(
        self, drafts: Sequence[Image], prompts: Sequence[Prompt], groups: Sequence[str | None], seeds: Sequence[int]
    ) -> list[Enriched | Rejected | ItemFailed]:
        """See `Enricher`. Raises WeightsError where a model cannot be had."""
        scenes = [_Scene(*given) for given in zip(prompts, groups, seeds, drafts, strict=True)]
        ended: dict[int, Rejected | ItemFailed] = {}
        for number in range(1, self.depth + 1):
            at_work = {n: scene for n, scene in enumerate(scenes) if n not in ended}
            if at_work:
                self._round(number, at_work, ended)
        return [ended.get(n) or Enriched(scene.image, tuple(scene.steps)) for n, scene in enumerate(scenes)]

    def _round(self, number: int, scenes: dict[int, _Scene], ended: dict[int, Rejected | ItemFailed]) -> None:
        """Repaint what is in the scenes, once; those that cannot go on are put among the `ended`."""
        detector = cast(Detector, self.detector)
        detections = detector([scene.image for scene in scenes.values()])
        found = {
            n: choose(seen, self.max_objects, self.min_area, equivalents(scene.group, detector.classes))
            for (n, scene), seen in zip(scenes.items(), detections, strict=True)
        }
        found = {n: objects for n, objects in found.items() if objects}
        asked = self._ask(number, {n: scenes[n] for n in found}, found, ended)
        # The first object of every scene, then the second: as many at once as there are scenes.
        for turn in range(self.max_objects):
            self._paint(
                number,
                [
                    (n, scenes[n], found[n][turn], said[turn])
                    for n, said in asked.items()
                    if n not in ended and turn < len(said)
                ],
                ended,
            )

    def _ask(
        self,
        number: int,
        scenes: dict[int, _Scene],
        found: dict[int, list[Found]],
        ended: dict[int, Rejected | ItemFailed],
    ) -> dict[int, list[Prompt]]:
        """Each object's sub-prompt; its origin says who wrote it."""
        if not scenes:
            return {}
        chats = [question([one.name for one in found[n]], scene.prompt, scene.group) for n, scene in scenes.items()]
        seeds = [_seed(scene.seed, number, "chat") for scene in scenes.values()]
        answers = cast(Talker, self.chat)(chats, seeds)
        asked = {}
        for (n, scene), answer in zip(scenes.items(), answers, strict=True):
            if isinstance(answer, ItemFailed):
                ended[n] = answer
                continue
            logger.debug("enrich: round %d: %r", number, answer)
            names, labels = [one.name for one in found[n]], [one.detection.label for one in found[n]]
            texts = subprompts(answer or "", names, labels, scene.group)
            reason = "no whole answer in time" if answer is None else "nothing usable in the answer"
            asked[n] = [
                Prompt(
                    text or template(label, scene.prompt),
                    negative(label, scene.prompt),
                    "llm" if text else f"template ({reason})",
                )
                for text, label in zip(texts, labels, strict=True)
            ]
        return asked

    def _paint(
        self,
        number: int,
        works: Sequence[tuple[int, _Scene, Found, Prompt]],
        ended: dict[int, Rejected | ItemFailed],
    ) -> None:
        """Repaint one object in each scene."""
        if not works:
            return
        masks = [one.detection.mask for _, _, one, _ in works]
        parts = [window(mask, self.context) for mask in masks]
        painted = cast(Painter, self.inpainter)(
            [scene.image[part.slices].copy() for (_, scene, _, _), part in zip(works, parts, strict=True)],
            [mask[part.slices].astype(np.uint8) * 255 for mask, part in zip(masks, parts, strict=True)],
            [prompt for *_, prompt in works],
            [_seed(scene.seed, number, one.name) for _, scene, one, _ in works],
        )
        for (n, scene, one, prompt), mask, part, pixels in zip(works, masks, parts, painted, strict=True):
            if isinstance(pixels, Rejected | ItemFailed):
                ended[n] = pixels
                continue
            alpha = feathered(mask, _FEATHER * float(np.hypot(*mask.shape)))
            scene.image = laid_over(scene.image, pixels, alpha, part)
            kept = scene.image if self.keep_steps else None
            scene.steps.append(Step(number, one.name, prompt, one.detection.score, one.area, one.detection.box, kept))


def _seed(seed: int, *parts: Any) -> int:
    """A seed of its own for each thing that is drawn for one image: 63 bits."""
    return xxhash.xxh3_64_intdigest("/".join(map(str, (seed, *parts))).encode()) >> 1
