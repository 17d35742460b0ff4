"""Chats with servers as they are: what `check` finds out, what they refuse, models that think, and keys."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

import pytest

import augment.models.calling
from augment.artifacts import Prompt
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.models.openai_server import KEY
from augment.recipe import Recipe
from augment.stages.refine.openai import OpenAi
from tests.chat_server import ChatServer
from tests.raw_server import RawServer, reply

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A beach?"}]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr(augment.models.calling, "_FIRST_PAUSE", 0.01)


def model(server: Any, **settings: Any) -> OpenAi:
    return OpenAi(**{"model": "words", "base_url": server.url, "retries": 0} | settings)


def problem(server: Any, **settings: Any) -> str:
    with pytest.raises(UnavailableError) as caught:
        model(server, **settings).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What `check` finds out


def test_a_model_that_is_listed_is_ready_and_is_not_asked_anything() -> None:
    with ChatServer() as server:
        for listed, name in (("words", "words"), ("words:latest", "words"), ("models/words", "words")):
            server.models = [listed]
            model(server, model=name).check()
        assert server.requests == []


@pytest.mark.parametrize("key", [None, "sk-wrong-key"])
def test_a_wrong_or_missing_key_is_said_and_not_shown(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if key:
        monkeypatch.setenv(KEY, key)
    for lists_to_anybody in (False, True):
        with ChatServer() as server:
            server.key, server.lists_to_anybody = "sk-right", lists_to_anybody
            server.models = ["words"]
            if key is None and lists_to_anybody:
                continue  # nothing tells it from a server that wants no key
            said = problem(server)
        assert f"{server.url} refuses the key (HTTP 401: Incorrect API key provided" in said
        assert f"{'correct' if key else 'set'} {KEY}" in said
        assert "sk-wrong" not in said


def test_the_right_key_is_enough_whoever_may_see_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-right")
    for lists_to_anybody in (False, True):
        with ChatServer() as server:
            server.key, server.lists_to_anybody = "sk-right", lists_to_anybody
            model(server).check()
            assert len(server.requests) == lists_to_anybody


def test_a_model_that_the_server_lacks_is_named_with_those_it_has() -> None:
    with ChatServer() as server:
        server.models = ["llama3:latest", "qwen3"]
        said = problem(server)
    assert "it has no model 'words'" in said
    assert said.endswith("it has: llama3:latest, qwen3")


def test_an_address_without_v1_is_corrected() -> None:
    with ChatServer() as server:
        said = problem(server, base_url=server.url.removesuffix("/v1"))
    assert said.endswith(f"; write base_url = '{server.url}'")


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "405 Method Not Allowed"])
def test_a_web_page_is_not_a_server(status: str) -> None:
    page = b"<!doctype html><html><title>Welcome to nginx</title></html>"
    with RawServer(lambda _, send: send(reply(page, status=status, kind="text/html"))) as server:
        assert "Welcome to nginx" in problem(server)


@pytest.mark.parametrize("body", [b'"text"', b'{"data": 3}', b"[" * 99_999, b'{"data": "words"}', b"7"])
def test_something_else_that_answers_is_one_sentence(body: bytes) -> None:
    with RawServer(lambda _, send: send(reply(body))) as server:
        assert f"{server.url}: what answers there is not an OpenAI-compatible server" in problem(server)


def test_a_server_that_lists_no_models_is_asked_for_one_token() -> None:
    with ChatServer() as server:
        server.models = []
        assert "no model 'words'" in problem(server)
        server.models = None

        def answer(request: bytes, send: Any) -> None:
            is_list = request.startswith(b"GET")
            send(reply(b"", status="404 Not Found") if is_list else reply(server.completion("Hi")))

        with RawServer(answer) as other:
            model(other).check()
            assert json.loads(other.requests[-1].partition(b"\r\n\r\n")[2])["max_tokens"] == 1


def test_an_exhausted_quota_ends_the_work_in_the_servers_words() -> None:
    with ChatServer() as server:
        server.statuses, server.message = [429] * 9, "You exceeded your current quota, check your billing details"
        with pytest.raises(UnavailableError, match="nothing left .HTTP 429: You exceeded your current quota"):
            model(server, retries=3).chat(CHAT)
        assert len(server.requests) == 1


# What servers refuse

GEMINI_SEED = [{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find.'}}]
MISTRAL_SEED = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs not permitted"}]}


@pytest.mark.parametrize(("status", "content"), [(400, GEMINI_SEED), (422, MISTRAL_SEED)])
def test_a_refused_seed_is_left_out_once_for_the_stage(status: int, content: Any) -> None:
    with ChatServer() as server:
        server.refuses["seed"] = (status, content)
        stage = model(server)
        assert [stage.chat(CHAT, seed) for seed in (1, 2, 3)] == [server.answer] * 3
        assert ["seed" in request for request in server.requests] == [True, False, False, False]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "System role not supported"),
        (500, "Jinja Exception: System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
        (400, "Only user and assistant roles are supported!"),
    ],
)
def test_a_refused_system_message_goes_in_front_of_the_users(status: int, words: str) -> None:
    with ChatServer() as server:
        server.refuses["system"] = (status, {"error": {"message": words}})
        stage = model(server)
        stage.chat(CHAT)
        stage.chat([CHAT[0], {"role": "user", "content": [{"type": "text", "text": "A beach?"}]}])
        first, second, third = (request["messages"] for request in server.requests)
    assert first == CHAT
    assert second == [{"role": "user", "content": "Be brief.\n\nA beach?"}]
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "A beach?"}]
    assert third == [{"role": "user", "content": parts}]


def test_several_refusals_are_learned_one_after_another() -> None:
    with ChatServer() as server:
        server.refuses = {
            "seed": (422, MISTRAL_SEED),
            "system": (400, {"error": {"message": "System role not supported"}}),
            "max_tokens": (400, {"error": {"message": "Use another", "param": "max_tokens"}}),
            "temperature": (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0"}}),
        }
        assert model(server).chat(CHAT) == server.answer
        assert set(server.requests[-1]) == {"model", "messages", "max_completion_tokens"}


def test_other_refusals_keep_the_servers_own_words() -> None:
    for content in ([{"error": {"message": "the location is not supported"}}], {"detail": "the location is no"}):
        with ChatServer() as server:
            server.refuses["model"] = (400, content)
            with pytest.raises(ItemFailed, match="HTTP 400: the location is no"):
                model(server).chat(CHAT)
            assert len(server.requests) == 1


# Models that think


def test_thoughts_that_ate_the_budget_are_given_room_from_then_on() -> None:
    with ChatServer() as server:
        server.thinks_for = 500
        stage = model(server)
        assert [stage.chat(CHAT), stage.chat(CHAT)] == [server.answer] * 2
        rooms = [request["max_tokens"] for request in server.requests]
    assert rooms == [120, 2168, 2168]
    assert server.requests[1]["reasoning_effort"] == "low"
    assert server.requests[1]["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_server_that_cannot_be_told_to_think_briefly_still_gives_room() -> None:
    with ChatServer() as server:
        server.thinks_for = 500
        for name in ("reasoning_effort", "chat_template_kwargs"):
            server.refuses[name] = (400, {"error": {"message": f"Unknown parameter: '{name}'", "param": name}})
        assert model(server).chat(CHAT) == server.answer
        assert not {"reasoning_effort", "chat_template_kwargs"} & set(server.requests[-1])


def test_thoughts_without_end_fail_the_item_with_the_way_out() -> None:
    with ChatServer() as server:
        server.thinks_for = 10**7
        with pytest.raises(ItemFailed, match="thought for 2168 tokens and gave no answer; raise max_tokens"):
            model(server).chat(CHAT)
        assert len(server.requests) == 2


def test_an_unclosed_thought_counts_as_no_answer() -> None:
    with ChatServer() as server:
        server.choice = {"finish_reason": "length", "message": {"role": "assistant", "content": "<think>So, a beach"}}
        with pytest.raises(ItemFailed, match="gave no answer"):
            model(server).chat(CHAT)


def test_an_answer_that_is_only_cut_off_is_used() -> None:
    with ChatServer() as server:
        server.choice = {"finish_reason": "length"}
        assert model(server).chat(CHAT) == server.answer
        assert len(server.requests) == 1


def test_an_answer_in_parts_is_their_text() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "a dog?"}]},
        {"type": "text", "text": "A wide beach with wet sand."},
    ]
    with ChatServer() as server:
        server.choice = {"message": {"role": "assistant", "content": parts}}
        assert model(server).chat(CHAT) == "A wide beach with wet sand."


# Keys


def test_a_key_from_a_mounted_secret_works_and_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-mounted-secret\n")
    with ChatServer() as server:
        server.key = "sk-mounted-secret"
        model(server).check()
        (prompt,) = model(server)(captions=["a beach"], groups=[None], variants=[0], seeds=[0])
        assert isinstance(prompt, Prompt)
    for odd in ("sk-mounted\nsecret", "sk-mounted secret", "sk-mounted-sécret"):
        monkeypatch.setenv(KEY, odd)
        with ChatServer() as server:
            assert "mounted" not in (said := problem(server))
            assert KEY in said


def test_a_server_that_echoes_the_key_does_not_get_it_into_errors_or_logs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "sk-echoed-secret")
    echo = reply(b'{"error": {"message": "bad header: Bearer sk-echoed-secret"}}', status="400 Bad Request")
    with RawServer(lambda _, send: send(echo)) as server, caplog.at_level(logging.DEBUG, logger="augment"):
        with pytest.raises(ItemFailed, match=re.escape("bad header: Bearer ***")):
            model(server).chat(CHAT)
        assert "***" in problem(server)
    assert "echoed" not in caplog.text


def test_a_login_in_the_address_is_refused_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://me:pass-word@host:8000/v1"
    with pytest.raises(RecipeError, match="base_url: it holds a user name or password") as caught:
        OpenAi(model="words", base_url=address)
    assert "pass-word" not in str(caught.value)
    with pytest.raises(RecipeError, match="base_url: it holds a user name or password") as caught:
        Recipe.load("webui").changed({"refine.base_url": address})
    assert "pass-word" not in str(caught.value)


def test_a_dripping_answer_fails_the_item_by_its_timeout() -> None:
    def drip(_: bytes, send: Any) -> None:
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
        for _ in range(100):
            send(b" ")
            time.sleep(0.05)

    with RawServer(drip) as server, pytest.raises(ItemFailed, match="no whole answer in 0.3 s; raise timeout"):
        model(server, timeout=0.3, retries=2).chat(CHAT)
