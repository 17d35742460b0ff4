"""Find what is in a background, have a language model say how each thing should look there, and repaint it so."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
import xxhash
from pydantic import Field, InstanceOf

from augment.artifacts import Image, Prompt, Rejected
from augment.errors import ItemFailed, RecipeError
from augment.stages.base import Stage
from augment.stages.coco import equivalents
from augment.stages.detect import Detector
from augment.stages.detect.mask_rcnn import MaskRcnn
from augment.stages.enrich import Enricher
from augment.stages.enrich.chat import ChatModel
from augment.stages.enrich.chat.gpt4all import Gpt4All
from augment.stages.enrich.inpainters import ObjectInpainter
from augment.stages.enrich.inpainters.diffusers import Diffusers
from augment.stages.enrich.objects import SceneObject, choose_objects, feathered, laid_over, region_around
from augment.stages.enrich.steps import Enriched, Step
from augment.stages.enrich.subprompts import negative, question, subprompts, template

logger = logging.getLogger(__name__)

_FEATHER = 0.008  # of the image's diagonal: 6 pixels at 512 x 512
_Detectors: TypeAlias = Annotated[tuple[InstanceOf[Detector], ...], Field(min_length=1)]


@dataclass(eq=False)
class _Scene:
    """A background at work: what it was asked to be, what it is now, what was done to it, and why it ended early."""

    prompt: Prompt
    group: str | None
    seed: int
    image: Image
    steps: list[Step] = field(default_factory=list)
    ended: Rejected | ItemFailed | None = None


@dataclass(frozen=True)
class Contextual(Enricher):
    """Detector, language model and inpainter in turn, `depth` times over.

    In each round the largest objects found are repainted one after the other, each with a sub-prompt that the language
    model writes from the background's own prompt; if it gives none that can be used, the sub-prompt is the label with
    that prompt. Objects of the image's own class are left alone: whether they may be there at all is for the guard to
    say. Pixels outside the masks stay as they are. All models are in memory together.

    - `depth`: rounds.
    - `max_objects`: objects per round, the largest; those smaller than `min_area` (share of the image) do not count,
      nor do those scored below `detector.score`.
    - `context`: how much an inpainter sees around an object, as a share of the object's longer side.
    - `keep_steps`: keep the image after each object, to look at; see `Reader.steps`.
    - `batch_size`: images at once.
    - `detector`, `chat`, `inpainter`: the stages that do it, each a table with a `backend`. Several detectors (an
      array of tables, `[[enrich.detector]]`) take one round each, and the last one all further rounds.
    """

    backend: ClassVar[str] = "contextual"
    execution_only: ClassVar[frozenset[str]] = frozenset({"keep_steps", "batch_size"})
    substages: ClassVar[Mapping[str, type[Stage]]] = {
        "detector": Detector,
        "chat": ChatModel,
        "inpainter": ObjectInpainter,
    }

    depth: Annotated[int, Field(ge=1, le=5)] = 1
    max_objects: Annotated[int, Field(ge=1)] = 4
    min_area: Annotated[float, Field(ge=0, le=1)] = 0.01
    context: Annotated[float, Field(ge=0)] = 0.5
    keep_steps: bool = False
    batch_size: Annotated[int, Field(ge=1)] = 8
    detector: InstanceOf[Detector] | _Detectors = field(default_factory=MaskRcnn)
    chat: InstanceOf[ChatModel] = field(default_factory=Gpt4All)
    inpainter: InstanceOf[ObjectInpainter] = field(default_factory=Diffusers)

    def __call__(
        self,
        *,
        drafts: Sequence[Image],
        prompts: Sequence[Prompt],
        groups: Sequence[str | None],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Enriched | Rejected | ItemFailed]:
        """See `Enricher`. Raises UnavailableError if a model cannot be had."""
        scenes = [_Scene(*given) for given in zip(prompts, groups, seeds, drafts, strict=True)]
        for number in range(1, self.depth + 1):
            self._repaint_once(number, [scene for scene in scenes if scene.ended is None])
        return [scene.ended or Enriched(scene.image, tuple(scene.steps)) for scene in scenes]

    def check(self) -> None:
        """Raise RecipeError if there are more detectors than rounds."""
        if len(self._detectors) > self.depth:
            raise RecipeError(
                f"enrich.detector: {len(self._detectors)} detectors, one a round, for {self.depth} "
                f"{'round' if self.depth == 1 else 'rounds'}: raise enrich.depth, or name fewer"
            )

    @property
    def _detectors(self) -> tuple[Detector, ...]:
        return self.detector if isinstance(self.detector, tuple) else (self.detector,)

    def _repaint_once(self, number: int, scenes: Sequence[_Scene]) -> None:
        """One round: repaint what is found in the scenes."""
        if not scenes:
            return
        detector = self._detectors[min(number, len(self._detectors)) - 1]
        detections = detector(images=[scene.image for scene in scenes])
        works = []
        for scene, seen in zip(scenes, detections, strict=True):
            own_class = equivalents(scene.group, detector.classes)
            if objects := choose_objects(seen, self.max_objects, self.min_area, own_class):
                works.append((scene, objects))
        if not works:
            return
        asked = self._ask(number, works)
        # The first object of every scene, then the second: as many at once as there are scenes.
        for turn in range(self.max_objects):
            self._paint(
                number,
                [
                    (scene, objects[turn], said[turn])
                    for (scene, objects), said in zip(works, asked, strict=True)
                    if scene.ended is None and turn < len(objects)
                ],
            )

    def _ask(self, number: int, works: Sequence[tuple[_Scene, Sequence[SceneObject]]]) -> list[list[Prompt]]:
        """Each object's sub-prompt; its origin says who wrote it. Empty for scenes that end here."""
        answers = self.chat(
            chats=[question([one.name for one in objects], scene.prompt, scene.group) for scene, objects in works],
            seeds=[_seed(scene.seed, number, "chat") for scene, _ in works],
        )
        asked: list[list[Prompt]] = []
        for (scene, objects), answer in zip(works, answers, strict=True):
            if isinstance(answer, ItemFailed):
                scene.ended = answer
                asked.append([])
                continue
            logger.debug("enrich: round %d: %r", number, answer)
            names, labels = [one.name for one in objects], [one.detection.label for one in objects]
            texts = subprompts(answer or "", names, labels, scene.group)
            reason = "no whole answer in time" if answer is None else "nothing usable in the answer"
            asked.append(
                [
                    Prompt(
                        text or template(label, scene.prompt),
                        negative(label, scene.prompt),
                        "llm" if text else f"template ({reason})",
                    )
                    for text, label in zip(texts, labels, strict=True)
                ]
            )
        return asked

    def _paint(self, number: int, works: Sequence[tuple[_Scene, SceneObject, Prompt]]) -> None:
        """Repaint one object in each scene."""
        if not works:
            return
        masks = [one.detection.mask for _, one, _ in works]
        regions = [region_around(mask, self.context) for mask in masks]
        painted = self.inpainter(
            images=[scene.image[region.slices].copy() for (scene, _, _), region in zip(works, regions, strict=True)],
            masks=[mask[region.slices].astype(np.uint8) * 255 for mask, region in zip(masks, regions, strict=True)],
            prompts=[prompt for _, _, prompt in works],
            seeds=[_seed(scene.seed, number, one.name) for scene, one, _ in works],
        )
        for (scene, one, prompt), mask, region, pixels in zip(works, masks, regions, painted, strict=True):
            if isinstance(pixels, Rejected | ItemFailed):
                scene.ended = pixels
                continue
            alpha = feathered(mask, _FEATHER * float(np.hypot(*mask.shape)))
            scene.image = laid_over(scene.image, pixels, alpha, region)
            kept = scene.image if self.keep_steps else None
            scene.steps.append(Step(number, one.name, prompt, one.detection.score, one.area, one.detection.box, kept))


def _seed(seed: int, *parts: object) -> int:
    """A seed of its own for each thing that is drawn for one image: 63 bits."""
    return xxhash.xxh3_64_intdigest("/".join(map(str, (seed, *parts))).encode()) >> 1
