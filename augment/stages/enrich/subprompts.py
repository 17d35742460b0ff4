"""What the language model is asked about the objects in an image, and how its answer is read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from augment.artifacts import Prompt
from augment.models.answers import records, text_of, without_thoughts
from augment.models.chat import Message
from augment.stages.text import TOKEN_LIMIT, class_pattern, class_words, clean_answer, clip_tokens, cut

_SYSTEM = (
    "You write prompts for an image generator that repaints single objects of a picture. You are given the picture's "
    "own prompt and the labels of its objects. Answer with one JSON object and nothing else: every label is a key, and "
    "its value describes that one object in at most 20 words, so that it fits the picture{object}."
)
_NAMING = ("label", "object", "name", "key")  # if a model answers with a list of records instead of one object
# A string's key and value: what is left of JSON that is cut off, or has commas and quotes in the wrong places.
_PAIR = re.compile(
    r"""(?P<q>["'])(?P<key>[^"'{}\n]{1,60})(?P=q)\s*:\s*(?P<v>["'])(?P<value>.+?)"""
    r"""(?:(?P=v)\s*(?:[,}\]\n]|$)|$)""",
    re.DOTALL,
)


def question(names: Sequence[str], prompt: Prompt, group: str | None) -> list[Message]:
    """The chat that asks for one sub-prompt per name; `group`, the object's class, must not come up in any."""
    words = class_words(group)
    form = json.dumps(dict.fromkeys(names, "…"), ensure_ascii=False)
    return [
        {"role": "system", "content": _SYSTEM.format(object=f", with no {words} in it" if words else "")},
        {"role": "user", "content": f"Prompt: {prompt.text}\nLabels: {', '.join(names)}\nForm: {form}"},
    ]


def subprompts(answer: str, names: Sequence[str], labels: Sequence[str], group: str | None) -> list[str | None]:
    """One sub-prompt for each name (label, numbered if there are several) out of a model's answer; None for a name that
    has none that can be used.

    The JSON object may stand anywhere in the answer, and be nested, in several pieces, or broken off; for a single
    object, prose is enough. A value for a bare label serves all of its objects; a list serves them in order. A
    sub-prompt that names the object's class is not used.
    """
    answer = without_thoughts(answer)
    values = _values(answer)
    if not values and len(names) == 1:  # plain prose can only be about the one object
        values = {_plain(names[0]): answer}
    found: list[str | None] = []
    for n, (name, label) in enumerate(zip(names, labels, strict=True)):
        value = _value_for(name, label, values)
        if isinstance(value, list):
            texts = [text for text in map(text_of, value) if text]
            nth = list(labels[:n]).count(label)
            value = texts[nth] if nth < len(texts) else None
        found.append(_usable(text_of(value), label, group))
    return found


def template(label: str, prompt: Prompt) -> str:
    """The sub-prompt of an object that the model has none for: its label in the scene of the first prompt."""
    return cut(f"{label}, {prompt.text}", TOKEN_LIMIT)


def negative(label: str, prompt: Prompt) -> str:
    """The first prompt's negative without what names the object that is painted: "people" is no fault of a person."""
    named = class_pattern(label)
    parts = [part.strip() for part in prompt.negative.split(",")]
    return ", ".join(part for part in parts if part and not (named and named.search(part)))


def _usable(text: str | None, label: str, group: str | None) -> str | None:
    named = class_pattern(group)
    if text is None or (named and named.search(text)):
        return None
    own = class_pattern(label)
    missing = "" if own and own.search(text) else f"{label}, "
    described = clean_answer(text, group, TOKEN_LIMIT - clip_tokens(missing))
    return f"{missing}{described[:1].lower()}{described[1:]}" if described and missing else described


def _values(answer: str) -> dict[str, Any]:
    """What each key in the answer stands for; whole JSON counts for more than what merely looks like a pair."""
    found = {match["key"]: match["value"] for match in _PAIR.finditer(answer)}
    for record in records(answer):
        named = next((record[key] for key in _NAMING if isinstance(record.get(key), str)), None)
        if named is not None:
            found[named] = {key: value for key, value in record.items() if value != named}
        found |= record
    return {_plain(key): value for key, value in found.items()}


def _value_for(name: str, label: str, values: dict[str, Any]) -> Any:
    if _plain(name) in values:
        return values[_plain(name)]
    named = class_pattern(label)
    for key, value in values.items():
        if key == _plain(label) or (named and named.fullmatch(key)):
            return value
    # One object, and the model has numbered it all the same.
    return values.get(f"{_plain(label)} 1") if name == label else None


def _plain(key: str) -> str:
    """A key as the model may vary it: "Person_2", "person #2" and "person2" are "person 2"."""
    words = re.sub(r"[\W_]+", " ", key.lower())
    return re.sub(r"(?<=[a-z])(?=\d)", " ", words).strip()
