"""Whatever a language model or a server in its place says, an answer gives words or none, and never takes for ever."""

import signal
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from augment.errors import RecipeError
from augment.models.answers import records, text_of, without_thoughts, words_of
from augment.stages.enrich.subprompts import subprompts
from augment.stages.refine.domains import parse
from augment.stages.text import clean_answer, usable_text

pytestmark = pytest.mark.faults

FRAGMENTS = [
    *("<think>", "</think>", "<think ", "<|channel|>", "<|message|>", "<|end|>", "analysis", "assistant final"),
    *("```", "```json\n", "\\boxed{", "\\text{", "<answer>", "</answer>", '{"prompt": ', '"a beach"', "}", "{", "["),
    *("]", ",", "\n", " ", '"', "\\", "\0", "\ud800", "é", "a cow on a meadow", "Sure! Here is your prompt:", "null"),
    *("1e999", "[THINK]", "[/THINK]", "◁think▷", "<|begin_of_thought|>", "**Prompt:**", "1. ", "- ", "aaaa", "\u2028"),
]
answers = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=9), max_size=30).map("".join)


@pytest.fixture(autouse=True)
def _not_for_ever():
    def end(number, frame):
        raise TimeoutError("an answer is searched for ever")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read(answer):
    """Every reader of answers."""
    assert isinstance(without_thoughts(answer), str)
    assert isinstance(words_of(answer), str)
    for record in records(answer):
        assert isinstance(record, dict)
        assert isinstance(text_of(record), str | None)
    for group in (None, "cow"):
        said = clean_answer(answer, group)
        assert said is None or said.strip()
        found = subprompts(answer, ["cow 1", "tree"], ["cow", "tree"], group)
        assert len(found) == 2
        assert all(isinstance(one, str | None) for one in found)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(answer=answers)
def test_an_answer_of_any_form_is_read(answer):
    read(answer)


@pytest.mark.parametrize("fragment", FRAGMENTS)
@pytest.mark.parametrize("start", ["", '{"a": "'])
def test_an_endless_answer_takes_no_more_time_than_its_length(start, fragment):
    read(start + fragment * (100_000 // len(fragment)))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.lists(st.sampled_from(["[domains.x]", "[lights]", "name = ", '"a"', "3", "[", "]", "\n", "= ", "{"])))
def test_a_table_of_domains_is_read_or_refused(text):
    with suppress(RecipeError):
        assert parse("".join(text), "mine.toml").domains


def test_words_that_are_none_are_refused():
    assert usable_text("a beach", "x") == "a beach"
