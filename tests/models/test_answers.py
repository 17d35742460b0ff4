"""The words in language models' answers, in the forms in which models of today give them."""

from __future__ import annotations

import pytest

from augment.models.answers import records, without_thoughts, words_of
from augment.stages.enrich.subprompts import subprompts
from augment.stages.text import clean_answer

WORDS = "A wide beach with wet sand."

FORMS = {
    "thoughts": f"<think>The user wants a dog.</think>\n{WORDS}",
    "thoughts whose beginning the template holds": f"So, a beach it is.\n</think>\n\n{WORDS}",
    "other tags": f"<thinking>hm</thinking><reasoning>hm</reasoning>{WORDS}",
    "Magistral": f"[THINK]a beach[/THINK]{WORDS}",
    "Kimi": f"◁think▷a beach◁/think▷{WORDS}",
    "Seed": f"<seed:think>a beach</seed:think>{WORDS}",
    "gpt-oss": "<|channel|>analysis<|message|>They want a dog on a lawn.<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{WORDS}<|return|>",
    "gpt-oss without its special tokens": f"analysisThey want a dog on a lawn.assistantfinal{WORDS}",
    "JSON in a fence": f'```json\n{{"prompt": "{WORDS}"}}\n```',
    "JSON with other keys beside it": f'{{"type": "beach", "Description": "{WORDS}", "mood": "calm"}}',
    "JSON in a sentence": f'Here you go: {{"caption": "{WORDS}"}} Enjoy!',
    "a fence": f"Here it is:\n```\n{WORDS}\n```\nLet me know.",
    "a label": f"Caption: {WORDS}",
    "a bold label": f"**Final answer:** {WORDS}",
    "a box": rf"The answer is $\boxed{{\text{{{WORDS}}}}}$",
    "answer tags": f"<answer>{WORDS}</answer>",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_words_are_used_and_the_rest_is_dropped(form: str) -> None:
    assert clean_answer(FORMS[form]) == WORDS


@pytest.mark.parametrize("form", [name for name in FORMS if "JSON" not in name and "label" not in name])
def test_the_enrichment_reads_the_same_forms(form: str) -> None:
    answer = FORMS[form].replace(WORDS, '{"cup": "a small blue cup of tea"}')
    assert subprompts(answer, ["cup"], ["cup"], None) == ["A small blue cup of tea"]


def test_a_list_of_parts_is_one_prompt() -> None:
    assert clean_answer('["a wide beach", "wet sand and low waves"]') == "A wide beach, wet sand and low waves"


@pytest.mark.parametrize(
    "answer", ["<think>a beach, I would say, or maybe", "analysisWe need to say something of a beach", "[" * 50_000]
)
def test_thoughts_alone_are_no_answer(answer: str) -> None:
    assert clean_answer(answer) is None
    assert subprompts(answer, ["cup"], ["cup"], None) == [None]


@pytest.mark.parametrize(
    "text",
    [
        "Analysis of the light: a pale sky over the flat and quiet beach.",
        "A sign that says [open] near the dunes, and a fence {in need of paint}.",
        'A "wide" beach with wet sand.',
        "A beach where 3 < 4 and thought is slow.",
    ],
)
def test_ordinary_prose_is_left_as_it_is(text: str) -> None:
    assert words_of(text) == without_thoughts(text) == text


def test_deeply_nested_json_is_no_trouble() -> None:
    deep = '{"a":' * 300 + '"x"' + "}" * 300
    assert len(list(records(deep))) < 300
    assert words_of(deep) is not None
