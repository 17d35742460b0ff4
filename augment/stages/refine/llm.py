"""What all refiners with a language model share: the question, and how the answer is used."""

from __future__ import annotations

import re
from dataclasses import dataclass

from augment.artifacts import Prompt
from augment.imaging.light import find_lights
from augment.models.chat import Chat, Message
from augment.stages.refine.templates import Scene, Templates, of_scene, plan
from augment.stages.refine.worded import MOST_TOKENS, Worded, joined
from augment.stages.text import TOKEN_LIMIT, class_words, clean_answer, clip_tokens


@dataclass(frozen=True, kw_only=True)
class Instructed(Worded):
    """Base class of refiners with a language model. Settings are those of `Worded`, and

    - `instructions`: the model's task, instead of the domain's; `{object}` in it becomes ", no <class>".
    """

    instructions: str | None = None


def refine(chat: Chat, caption: str, group: str | None, variant: int, seed: int, words: Worded | None = None) -> Prompt:
    """The model's description of the variant's scene as a prompt; if it cannot be used, the template's.

    `origin` is "llm", or "template (…)" with the reason. Raises what `chat` raises, except TimeoutError.
    """
    words = words or Templates()
    scene = plan(caption, group, variant, seed, words)
    limit = TOKEN_LIMIT - MOST_TOKENS + words.room - clip_tokens(_ending(scene))
    try:
        answer = clean_answer(chat(messages(scene, group, words), seed), group, limit)
        reason = "nothing usable in the answer"
    except TimeoutError as error:
        answer, reason = None, str(error)
    if answer is not None and scene.domain.forbids(answer):
        answer = _allowed(answer, scene)
        reason = f"the answer speaks of what {scene.domain.name} does not show"
    if not answer:
        return of_scene(words, scene, group, f"template ({reason})")
    named = scene.light is not None and scene.light in find_lights(answer, [scene.light])
    text = joined(answer.rstrip(" ."), _ending(scene, light=not named))
    return words.prompt(text, group, scene.domain, [scene.light] if scene.light else [], "llm")


def messages(scene: Scene, group: str | None, words: Worded | None = None) -> list[Message]:
    """The question. The scene's own light makes the variants differ even if the model draws nothing at random."""
    name = class_words(group)
    instructions = getattr(words, "instructions", None) or scene.domain.instructions
    question = scene.domain.question.replace("{light}", scene.light.phrase if scene.light else "")
    question = re.sub(r"\s+(?=[:\s])", "", question.replace("{scene}", joined(scene.caption, scene.surroundings)))
    return [
        {"role": "system", "content": instructions.replace("{object}", f", no {name}" if name else "")},
        {"role": "user", "content": question},
    ]


def _allowed(answer: str, scene: Scene) -> str:
    """The sentences that say nothing that such a picture cannot show."""
    sentences = re.split(r"(?<=[.!?])\s+", answer)
    return " ".join(sentence for sentence in sentences if not scene.domain.forbids(sentence))


def _ending(scene: Scene, light: bool = True) -> str:
    """What a prompt ends with. Without the word "photograph" image models drift to paintings."""
    return joined(scene.light.phrase if light and scene.light else "", scene.domain.medium or scene.ending)
