"""Prompts by language models: a real one through GPT4All, and a real server that misbehaves on request."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from augment.artifacts import Prompt
from augment.errors import ItemFailed, UnavailableError
from augment.imaging.light import find_lights
from augment.models.chat_template import prompt_template, read_metadata
from augment.stages.refine.gpt4all import Gpt4All
from augment.stages.refine.openai import OpenAi
from augment.stages.refine.templates import plan
from augment.stages.text import class_pattern, clip_tokens
from tests.chat_server import ChatServer

# GPT4All


def gguf(path: Path, **metadata: str | list[str]) -> Path:
    """A GGUF file that is all head: strings and lists of strings."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode()

    def value(item: str | list[str]) -> bytes:
        if isinstance(item, str):
            return struct.pack("<I", 8) + string(item)
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(string, item))

    entries = [string(name.replace("__", ".")) + value(item) for name, item in metadata.items()]
    number = string("general.block_count") + struct.pack("<II", 4, 12)
    numbers = string("some.floats") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3)
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries) + 2)
    path.write_bytes(head + number + numbers + b"".join(entries))
    return path


CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% endfor %}"
)


def test_a_model_s_own_chat_template_is_used(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(50)]
    path = gguf(tmp_path / "chat.gguf", tokenizer__tokens=words, tokenizer__chat_template=CHATML)
    assert read_metadata(path) == {"general.block_count": 12, "tokenizer.chat_template": CHATML}
    template = prompt_template(str(path), "Be {brief}, 100%1.")
    assert template.format("hello") == (
        "<|im_start|>system\nBe (brief), 100 percent1.<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_without_a_system_message_gets_it_before_the_user_s(tmp_path: Path) -> None:
    path = gguf(tmp_path / "inst.gguf", tokenizer__chat_template=NO_SYSTEM)
    assert prompt_template(str(path), "Be brief.").format("hello") == "[INST] Be brief.\n\nhello [/INST]"


@pytest.mark.parametrize("template", ["{% for %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "nothing at all"])
def test_a_broken_or_hostile_chat_template_is_not_used(tmp_path: Path, template: str) -> None:
    path = gguf(tmp_path / "mistral-7b-instruct-v0.1.Q4_0.gguf", tokenizer__chat_template=template)
    assert prompt_template(str(path), "Be brief.").format("hello") == "[INST] Be brief.\n\nhello [/INST]"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 40, b"not a model at all"])
def test_a_file_that_is_not_gguf_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UnavailableError, match=re.escape(str(path))):
        Gpt4All(model=str(path))(captions=["a beach"], groups=[None], variants=[0], seeds=[0])


def test_a_model_that_cannot_be_had_offline_fails_at_once_with_the_way_out(tmp_path: Path) -> None:
    pytest.importorskip("gpt4all")
    stage = Gpt4All(folder=str(tmp_path))
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"mistral-7b-instruct-v0\.1\.Q4_0\.gguf"):
        stage.check()
    assert time.monotonic() - started < 5


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> Gpt4All:
    """A real, if small, language model through the real library."""
    pytest.importorskip("gpt4all")
    # One thread: llama.cpp's threads wait for each other by spinning, which is slow where cores are shared.
    return Gpt4All(model=smollm2.name, folder=str(smollm2.parent), max_tokens=40, threads=1)


def test_gpt4all_describes_the_place_the_same_way_in_any_batch(llm: Gpt4All) -> None:
    llm.check()
    captions, groups = ["a dog on a beach", "a lawn by a lake", "a street"], ["dog", None, "car"]
    together = llm(captions=captions, groups=groups, variants=[0, 1, 2], seeds=[5, 5, 5])
    assert llm(captions=captions[1:2], groups=groups[1:2], variants=[1], seeds=[5]) == together[1:2]
    for prompt, group in zip(together, groups, strict=True):
        assert isinstance(prompt, Prompt)
        assert clip_tokens(prompt.text) <= 75
        named = class_pattern(group)
        assert named is None or not named.search(prompt.text)
    # So small a model fails now and then; that it is heard at all is what counts here.
    heard = [prompt for prompt in together if isinstance(prompt, Prompt) and prompt.origin == "llm"]
    assert heard
    assert all("natural photograph" in prompt.text for prompt in heard)


def test_gpt4all_s_time_limit_gives_the_template_s_prompt_and_unloading_drops_the_model(smollm2: Path) -> None:
    pytest.importorskip("gpt4all")
    hurried = Gpt4All(model=str(smollm2), time_limit=0.001, max_tokens=40, threads=1)
    (prompt,) = hurried(captions=["a dog on a beach"], groups=["dog"], variants=[0], seeds=[5])
    assert isinstance(prompt, Prompt)
    assert prompt.origin == "template (no whole answer in 0.001 s)"
    assert prompt.text == plan("a dog on a beach", "dog", 0, 5).text
    assert set(vars(hurried)) > set(hurried.settings())
    hurried.unload()
    assert set(vars(hurried)) == set(hurried.settings())


def test_a_model_that_llama_cpp_refuses_is_named_with_its_reason(smollm2: Path, tmp_path: Path) -> None:
    pytest.importorskip("gpt4all")
    torn = tmp_path / "torn.gguf"
    shutil.copy(smollm2, torn)
    os.truncate(torn, 40_000_000)
    with pytest.raises(UnavailableError, match=rf"{re.escape(str(torn))}.*cannot load it"):
        Gpt4All(model=str(torn), threads=1)(captions=["a lawn"], groups=[None], variants=[0], seeds=[0])


def test_gpt4all_prints_nothing_while_it_loads(smollm2: Path) -> None:
    pytest.importorskip("gpt4all")
    code = (
        "import sys; from augment.stages.refine.gpt4all import Gpt4All; "
        "stage = Gpt4All(model=sys.argv[1], threads=1, time_limit=0.001); "
        "(prompt,) = stage(captions=['a lawn'], groups=[None], variants=[0], seeds=[0]); "
        "print(prompt.origin); print('still here', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(smollm2)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("template")
    assert done.stderr == "still here\n"


# A server


def ask(stage: OpenAi, count: int = 1) -> list[Prompt | ItemFailed]:
    return stage(
        captions=["a dog on a beach"] * count, groups=["dog"] * count, variants=range(count), seeds=range(count)
    )


def test_a_server_s_answer_becomes_a_prompt() -> None:
    with ChatServer() as server:
        stage = OpenAi(model="words", base_url=server.url, temperature=0.5, max_tokens=64)
        stage.check()
        (prompt,) = stage(captions=["a dog on a beach"], groups=["dog"], variants=[0], seeds=[2**62 + 9])
    assert isinstance(prompt, Prompt)
    assert prompt.text.startswith("A wide beach with wet sand and low waves, ")
    assert prompt.origin == "llm"
    (request,) = server.requests
    assert (request["model"], request["temperature"], request["max_tokens"], request["seed"]) == ("words", 0.5, 64, 9)


def test_the_key_comes_from_the_environment_and_stays_out_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with ChatServer() as server:
        stage = OpenAi(model="words", base_url=server.url)
        ask(stage)
        assert server.keys == ["Bearer sk-secret"]
        assert "secret" not in repr(stage) + str(stage.settings()) + str(stage.__getstate__())
        monkeypatch.delenv("OPENAI_API_KEY")
        stage.unload()
        ask(stage)  # a local server wants none
        assert "secret" not in str(server.keys[1])


def test_a_server_s_passing_faults_are_tried_again() -> None:
    with ChatServer() as server:
        server.statuses = [500, 429]
        (prompt,) = ask(OpenAi(model="words", base_url=server.url, retries=2))
    assert isinstance(prompt, Prompt)
    assert len(server.requests) == 3


def test_a_server_s_lasting_fault_fails_that_item_alone() -> None:
    with ChatServer() as server:
        server.statuses = [500]
        failed, prompt = ask(OpenAi(model="words", base_url=server.url, retries=0, concurrency=1), 2)
    assert isinstance(failed, ItemFailed)
    assert server.url in str(failed)
    assert "HTTP 500" in str(failed)
    assert isinstance(prompt, Prompt)


def test_a_refused_question_fails_with_the_server_s_words() -> None:
    with ChatServer() as server:
        server.statuses, server.message = [400], "the context is too short"
        (failed,) = ask(OpenAi(model="words", base_url=server.url))
    assert isinstance(failed, ItemFailed)
    assert "the context is too short" in str(failed)
    assert len(server.requests) == 1  # asking again would not help


def test_a_setting_that_the_model_does_not_take_is_left_out() -> None:
    with ChatServer() as server:
        server.statuses, server.param = [400], "max_tokens"
        (prompt,) = ask(OpenAi(model="words", base_url=server.url))
    assert isinstance(prompt, Prompt)
    assert "max_tokens" not in server.requests[1]
    assert server.requests[1]["max_completion_tokens"] == 120


@pytest.mark.parametrize(
    "body", [b"", b"garbage", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"[1, 2]"]
)
def test_garbage_from_a_server_fails_the_item(body: bytes) -> None:
    with ChatServer() as server:
        server.body = body
        (failed,) = ask(OpenAi(model="words", base_url=server.url, retries=0))
    assert isinstance(failed, ItemFailed)
    assert server.url in str(failed)


def test_a_slow_server_fails_the_item_after_the_timeout() -> None:
    with ChatServer() as server:
        server.delay = 1.5
        (failed,) = ask(OpenAi(model="words", base_url=server.url, retries=0, timeout=0.2))
        assert isinstance(failed, ItemFailed)
        assert "0.2 s" in str(failed)


def test_questions_go_out_together_up_to_the_limit_and_come_back_in_order() -> None:
    with ChatServer() as server:
        server.delay = 0.1
        prompts = ask(OpenAi(model="words", base_url=server.url, concurrency=3), 9)
    assert server.most_at_once == 3
    lights = [plan("a dog on a beach", "dog", n, n).light for n in range(9)]
    assert [find_lights(prompt.text) for prompt in prompts if isinstance(prompt, Prompt)] == [
        [light] for light in lights
    ]


def test_an_unusable_answer_from_a_server_gives_the_template_s_prompt() -> None:
    with ChatServer() as server:
        server.answer = "I'm sorry, but I can't help with that."
        (prompt,) = ask(OpenAi(model="words", base_url=server.url))
    assert isinstance(prompt, Prompt)
    assert prompt.origin.startswith("template (")


@pytest.mark.parametrize(
    ("status", "words"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "no model 'words'")]
)
def test_what_no_item_can_escape_ends_the_work(status: int, words: str) -> None:
    with ChatServer() as server:
        server.statuses = [status] * 20
        with pytest.raises(UnavailableError, match=words):
            ask(OpenAi(model="words", base_url=server.url), 6)


def test_a_server_that_is_not_there_is_named() -> None:
    with ChatServer() as server:
        url = server.url
    with pytest.raises(UnavailableError, match=f"{re.escape(url)}: no server answers there .*base_url"):
        OpenAi(model="words", base_url=url, retries=0).check()


def test_a_server_that_goes_away_fails_the_items_and_the_later_ones_do_not_wait() -> None:
    with ChatServer() as server:
        stage = OpenAi(model="words", base_url=server.url, retries=1, concurrency=1)
        assert isinstance(ask(stage)[0], Prompt)
    started = time.monotonic()
    failed = ask(stage, 20)
    assert all(isinstance(item, ItemFailed) and "no server answers there" in str(item) for item in failed)
    assert time.monotonic() - started < 5  # a pause for each of them would be 10 s or more
