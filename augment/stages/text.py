"""A language model's answer made fit for a text encoder: cleaned, without the object's class, and cut to length."""

from __future__ import annotations

import math
import re

from augment.errors import ItemFailed
from augment.models.answers import words_of

TOKEN_LIMIT = 75  # CLIP's text encoder takes 77 tokens, of which two mark the beginning and the end
_LONGEST = 2000  # characters of an answer worth reading: some ten times what the text encoder takes

_PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "tooth": "teeth",
    "foot": "feet",
    "leaf": "leaves",
    "knife": "knives",
    "wolf": "wolves",
    "calf": "calves",
    "shelf": "shelves",
}
_SINGULARS = {plural: singular for singular, plural in _PLURALS.items()}

_TYPOGRAPHY = str.maketrans("\u2018\u2019\u201c\u201d\u00ab\u00bb\u2013\u2014\u00a0", '\'\'""""-- ')
_CHAT_MARKS = re.compile(r"<\|[^|>]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>", re.IGNORECASE)
_LINKS = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKDOWN = re.compile(r"^\s*(?:#{1,6}\s+|>\s?|`{3}\w*\s*$)|\*+(?=\S)|(?<=\S)\*+|`+|(?<!\w)_+|_+(?!\w)", re.MULTILINE)
_LIST_ITEM = re.compile(r"^\s*(?:[-*+\u2022]|\(?\d{1,2}[.):])\s+")
_PREAMBLE = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|okay|ok|absolutely|great|alright|yes)(?: thing)?[,.!:]+\s*)?"
    r"(?:(?:here(?:'s| is| are)|this is|below is|the following is)\b[^.:\n]{0,80}:\s*)?"
    r"(?:(?:(?:refined|background|image|photo|scene|final|text|short|the) )*"
    r"(?:prompt|caption|description|background|scene|output|answer|response|assistant|setting)\s*:\s*)?",
    re.IGNORECASE,
)
_SHOWS = re.compile(
    r"^(?:in )?(?:the|this|an?) (?:image|photo(?:graph)?|picture|background|scene)"
    r"(?: (?:shows|depicts|features|is|of|captures|should (?:be|show)|would (?:be|show)))+ (?:of )?",
    re.IGNORECASE,
)
_LAST_PART = re.compile(r"\(?\b(?:negative prompt|note|explanation)\s*:.*$", re.IGNORECASE | re.DOTALL)
# A sentence that speaks of the task, of the model or to the user is not scenery.
_TALK = re.compile(
    r"^(?:i'(?:m|ve|ll|d)|we|you|please|let me|feel free|remember|sorry|unfortunately|hope|thanks?|thank you)\b"
    r"|(?-i:\bI\b)|\b(?:as an ai|language model|unable to|the user|your request|the prompt|the caption|description"
    r"|image generator|let me know|hope this helps|is not (?:shown|mentioned|visible|included))\b",
    re.IGNORECASE,
)
_PHRASE_LOOP = re.compile(r"\b(.{6,120}?)(?:[\s,.;]+\1)+(?!\w)", re.IGNORECASE | re.DOTALL)
_WORD_LOOP = re.compile(r"\b(\w+)(?:\W+\1\b)+", re.IGNORECASE)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])[\"')]*\s+")
_SENTENCE_END = re.compile(r"[.!?][\"')]*$")
_CLIP_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^\sa-z0-9]", re.IGNORECASE)


def class_words(group: str | None) -> str | None:
    """A class name as words, "golden_retriever" as "golden retriever"; None if it is only a number or a code."""
    words = re.sub(r"[_\-\s.]+", " ", group or "").strip().lower()
    is_code = not re.search(r"[^\W\d_]{2}", words) or re.fullmatch(r"n?\d{4,}|(?:class|label|category) ?\w?\d*", words)
    return None if is_code else words


def class_pattern(group: str | None) -> re.Pattern[str] | None:
    """Finds the class by name in a text: singular and plural, in any case, with spaces or hyphens between its words."""
    words = class_words(group)
    if words is None:
        return None
    *first, last = words.split(" ")
    one = _SINGULARS.get(last) or (last[:-3] + "y" if last.endswith("ies") and len(last) > 4 else last)
    one = re.sub(r"(?<=[^s]{3})s$|(?<=s|x|z)es$|(?<=ch|sh)es$", "", one)
    forms = {last, one, one + "s", one + "es", _PLURALS.get(one, one), re.sub(r"(?<=[^aeiou])y$", "ies", one)}
    if last.endswith("oes"):
        forms.add(last[:-2])
    endings = "|".join(sorted(map(re.escape, forms), key=len, reverse=True))
    name = r"[\s-]+".join([*map(re.escape, first), f"(?:{endings})"])
    return re.compile(rf"\b{name}\b", re.IGNORECASE)


def clean_answer(answer: str, group: str | None = None, limit: int = TOKEN_LIMIT) -> str | None:
    """A language model's answer as one prompt of at most `limit` CLIP tokens, without the object's class; None if
    nothing usable is left.

    Taken away: thoughts, JSON and other wrappings (see `words_of`), chat and Markdown marks, list marks (of a list of
    long items, all but the first item), preambles such as "Sure, here is …:", quotes around all of it, refusals and
    remarks to the user, repetitions, a last sentence that broke off, and each sentence that names the class. If every
    sentence names it, the clauses that do not may stay.
    """
    text = _CHAT_MARKS.sub(" ", words_of(answer))[:_LONGEST].translate(_TYPOGRAPHY)
    text = _one_paragraph(_MARKDOWN.sub("", _LINKS.sub(r"\1", text)))
    text = _LAST_PART.sub("", _unquoted(_PREAMBLE.sub("", _unquoted(_PREAMBLE.sub("", text, count=1)), count=1)))
    text = _WORD_LOOP.sub(r"\1", _PHRASE_LOOP.sub(r"\1", re.sub(r"\s+", " ", text))).strip()
    sentences = [_SHOWS.sub("", sentence).strip() for sentence in _SENTENCE_BREAK.split(text)]
    sentences = [sentence for sentence in _once(sentences) if sentence and not _TALK.search(sentence)]
    if len(sentences) > 1 and not _SENTENCE_END.search(sentences[-1]):
        sentences.pop()
    text = " ".join(_without_class(sentences, class_pattern(group)))
    text = cut(re.sub(r"\s+([,.;!?])", r"\1", text).strip(" ,;:-\"'"), limit)
    return text[:1].upper() + text[1:] if _is_usable(text) else None


def clip_tokens(text: str) -> int:
    """An estimate, on the high side for prose, of a text's CLIP tokens, the two end marks not counted.

    CLIP's byte-pair vocabulary holds most English words of up to seven letters whole. Longer ones count a further
    token for each four letters, digits and marks as one each, a letter outside a-z as three. Held against the real
    vocabulary, for some 200 pieces of English text, it is a twentieth too many at the median, at worst a sixth too few.
    """
    return sum(map(_tokens_of, _CLIP_WORD.findall(text)))


def cut(text: str, limit: int = TOKEN_LIMIT) -> str:
    """The beginning that fits in `limit` CLIP tokens, up to the end of a sentence, else of a clause, else of a word."""
    used, end = 0, len(text)
    for word in _CLIP_WORD.finditer(text):
        used += _tokens_of(word[0])
        if used > limit:
            end = word.start()
            break
    else:
        return text
    # What is left of a word that did not fit whole goes as well.
    kept = text[:end] if text[end - 1 : end].isspace() else text[:end].rpartition(" ")[0]
    for mark in (r"[.!?](?=\s|$)", r"[,;](?=\s|$)"):
        ends = [match.end() for match in re.finditer(mark, kept)]
        # A mark in the first half would throw away more than it saves.
        if ends and ends[-1] >= len(kept) // 2:
            return kept[: ends[-1]].rstrip(" ,;")
    return kept.rstrip(" ,;")


def _tokens_of(word: str) -> int:
    return 1 + math.ceil(max(0, len(word) - 7) / 4) if word.isascii() else 3 * len(word)


def _one_paragraph(text: str) -> str:
    """Lines joined, lists first turned into prose."""
    lines = [line for line in text.splitlines() if line.strip()]
    items = [_LIST_ITEM.sub("", line).strip() for line in lines if _LIST_ITEM.match(line)]
    if not items:
        return " ".join(line.strip() for line in lines)
    before = [line.strip() for line in lines[: next(n for n, line in enumerate(lines) if _LIST_ITEM.match(line))]]
    if before and before[-1].endswith(":"):
        before.pop()
    # Long items are alternatives, short ones are features of one scene.
    long = sum(len(item.split()) for item in items) / len(items) > 8
    return " ".join([*before, items[0] if long else ", ".join(item.rstrip(" .,;") for item in items)])


def _unquoted(text: str) -> str:
    """What is in quotes, if that is most of the text."""
    quoted = re.search(r'"(.+?)"', text, re.DOTALL)
    return quoted[1] if quoted and len(quoted[1]) > len(text) / 2 else text.strip(" \"'")


def _once(sentences: list[str]) -> list[str]:
    """Each sentence once, however its case and marks vary."""
    return list({re.sub(r"\W+", " ", sentence).strip().lower(): sentence for sentence in reversed(sentences)}.values())[
        ::-1
    ]


def _without_class(sentences: list[str], named: re.Pattern[str] | None) -> list[str]:
    if named is None:
        return sentences
    kept = [sentence for sentence in sentences if not named.search(sentence)]
    if kept:
        return kept
    clauses = [clause.strip() for sentence in sentences for clause in re.split(r"[,;.]", sentence)]
    # "its", "their" and the like point back to what was taken away.
    pointing = re.compile(r"\b(?:its?|his|her|their|he|she|they)\b", re.IGNORECASE)
    return [
        ", ".join(clause for clause in clauses if clause and not named.search(clause) and not pointing.search(clause))
    ]


def _is_usable(text: str) -> bool:
    """At least three words, most of it letters, and more than one word said over and over."""
    words = re.findall(r"[^\W\d_]{2,}", text)
    letters = sum(character.isalpha() or character in " ,.'-" for character in text)
    return len(words) >= 3 and len({word.lower() for word in words}) >= 3 and letters > 0.8 * len(text)


def usable_text(text: object, stage: str) -> str:
    """The text, without surrounding space and lone surrogates. Raises ItemFailed if it is none, or says nothing."""
    if not isinstance(text, str):
        raise ItemFailed(f"{stage} gave {type(text).__name__} and not text")
    cleaned = text.encode(errors="ignore").decode().strip()
    if not cleaned:
        raise ItemFailed(f"{stage} gave an empty text")
    return cleaned
