"""The words in a language model's answer: without its thoughts, out of whatever they are wrapped in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_TAG = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|seed:think|\|think\|)"
_THOUGHTS = re.compile(
    rf"<{_TAG}\b[^>]{{0,200}}>.*?(?:</{_TAG}>|$)"
    r"|\[THINK\].*?(?:\[/THINK\]|$)"
    r"|◁think▷.*?(?:◁/think▷|$)"
    r"|<\|(?:begin_of_thought|start_thinking)\|>.*?(?:<\|(?:end_of_thought|end_thinking)\|>|$)",
    re.DOTALL | re.IGNORECASE,
)
# The template of some models opens the thoughts, so that their text begins inside them.
_LONE_END = re.compile(rf"^.*(?:</{_TAG}>|\[/THINK\]|◁/think▷)", re.DOTALL | re.IGNORECASE)
# gpt-oss: "<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…"; servers that strip
# special tokens leave "analysis…assistantfinal…".
_CHANNEL = re.compile(
    r"<\|channel\|>\s{0,9}(\w{1,40})[^<]{0,200}<\|message\|>(.*?)"
    r"(?=<\|(?:end|return|start|channel|call)\|>|$)",
    re.DOTALL,
)
_BARE_CHANNEL = re.compile(r"^\s*(?:analysis|commentary).*assistant\s*final(.*)$", re.DOTALL)
_BARE_THOUGHT = re.compile(r"^\s*analysis(?=[A-Z])(?!.*assistant\s*final).*$", re.DOTALL)


def without_thoughts(text: str) -> str:
    """The text without what a model thought before it answered, in every form that is in use."""
    channels = _CHANNEL.findall(text)
    if channels:
        text = " ".join(said for channel, said in channels if channel == "final")
    elif bare := _BARE_CHANNEL.match(text):
        text = bare[1]
    elif _BARE_THOUGHT.match(text):
        text = ""
    return _LONE_END.sub(" ", _THOUGHTS.sub(" ", text))


_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|$)", re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text(?:bf|rm)?\s*\{)?(.*?)\}", re.DOTALL)
_TAGGED = re.compile(
    r"<(answer|output|response|result|final|caption|prompt|description)>(.*?)(?:</\1>|$)", re.DOTALL | re.IGNORECASE
)
_LONGEST = 20_000  # characters of an answer that are searched
_DEEPEST = 16  # levels of JSON that are looked into
_DESCRIBING = (
    "prompt", "sub-prompt", "sub_prompt", "subprompt", "caption", "description", "text", "answer", "output",
    "final", "response", "result", "scene", "background",
)  # fmt: skip


def words_of(answer: str) -> str:
    """The text of an answer that is wanted as prose: without thoughts, tags, fences, boxes and JSON around it.

    Of a JSON object the text under a key such as "prompt" or "description" is enough; of any other, all of its texts.
    """
    text = without_thoughts(answer)[:_LONGEST]
    for wrapping in (_TAGGED, _BOXED, _FENCE):
        found = [match[match.re.groups].strip() for match in wrapping.finditer(text)]
        if any(found):
            text = next(filter(None, found))
    if text.lstrip()[:1] == "[" or re.search(r"\{\s*[\"}]", text):
        for value in _values(text, "{["):
            if said := text_of(value):
                return said
    return text


def records(answer: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in the text, each before those inside it."""
    for value in _values(answer[:_LONGEST], "{"):
        yield from _nested(value)


def text_of(value: Any, depth: int = 0) -> str | None:
    """The words of a JSON value: itself, or what it holds, of which a "prompt" or "description" is enough."""
    if isinstance(value, str):
        return value.strip() or None
    if depth > _DEEPEST:
        return None
    if isinstance(value, dict):
        names = {str(key).lower(): key for key in value}
        value = [value[names[name]] for name in _DESCRIBING if name in names][:1] or list(value.values())
    if not isinstance(value, list):
        return None
    return ", ".join(filter(None, (text_of(inner, depth + 1) for inner in value))) or None


def _values(text: str, starts: str) -> Iterator[Any]:
    """Every JSON value in the text that begins with one of these brackets, in order; not those inside others."""
    decoder = json.JSONDecoder(strict=False)  # models put line breaks into strings
    start = 0
    while match := re.compile(f"[{re.escape(starts)}]").search(text, start):
        try:
            value, start = decoder.raw_decode(text, match.start())
        except ValueError:
            start = match.start() + 1
        except RecursionError:  # the values inside would be as deep, and take as long
            return
        else:
            yield value


def _nested(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nested(inner, depth + 1)
