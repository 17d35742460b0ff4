"""What all refiners with a language model share: the question, and how the answer is used."""

from __future__ import annotations

from augment.artifacts import Prompt
from augment.imaging.light import find_lights
from augment.models.chat import Chat, Message
from augment.stages.refine.templates import Scene, negative, plan
from augment.stages.text import TOKEN_LIMIT, class_words, clean_answer, clip_tokens

_SYSTEM = (
    "You describe places for an image generator. Answer with one or two plain sentences, at most 40 words in all. "
    "Describe scenery only: the ground, what stands further off, the light. The place is empty: no people, no "
    "animals{object}. No introduction, no list, no quotation marks."
)


def refine(chat: Chat, caption: str, group: str | None, variant: int, seed: int) -> Prompt:
    """The model's description of the variant's scene as a prompt; if it cannot be used, the template's.

    `origin` is "llm", or "template (…)" with the reason. Raises what `chat` raises, except TimeoutError.
    """
    scene = plan(caption, group, variant, seed)
    try:
        answer = clean_answer(chat(messages(scene, group), seed), group, TOKEN_LIMIT - clip_tokens(_ending(scene)))
        reason = "nothing usable in the answer"
    except TimeoutError as error:
        answer, reason = None, str(error)
    if answer is None:
        return Prompt(scene.text, negative(group), f"template ({reason})")
    said = scene.light in find_lights(answer)
    ending = _ending(scene, light=not said)
    return Prompt(f"{answer.rstrip(' .')}, {ending}", negative(group), "llm")


def messages(scene: Scene, group: str | None) -> list[Message]:
    """The question. The scene's own light makes the variants differ even if the model draws nothing at random."""
    name = class_words(group)
    place = f"{scene.caption}, {scene.setting}" if scene.caption else scene.setting
    return [
        {"role": "system", "content": _SYSTEM.format(object=f", no {name}" if name else "")},
        {"role": "user", "content": f"Describe this place {scene.light.phrase}: {place}."},
    ]


def _ending(scene: Scene, light: bool = True) -> str:
    """What a prompt ends with. Without the word "photograph" image models drift to paintings."""
    return f"{scene.light.phrase}, natural photograph" if light else "natural photograph"
