"""Captions by tiny models of the real classes that people use: each gets everything that its processor makes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augment.artifacts import Image
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.stages.caption.transformers import Transformers, whole_sentences, without_loop
from augment.testing import tiny_vision
from augment.testing.tiny import tiny_chat, tiny_git

MODELS: dict[str, Callable[[Path], Path]] = {
    "florence2": tiny_vision.tiny_florence2,
    "paligemma": tiny_vision.tiny_paligemma,
    "instructblip": tiny_vision.tiny_instructblip,
    "llava": tiny_chat,
    "smolvlm": tiny_vision.tiny_smolvlm,
    "qwen2_5_vl": tiny_vision.tiny_qwen,
    "git": tiny_git,
}
# What each model was asked, as its own tokenizer says it.
ASKED = {
    "florence2": "Describe with a paragraph what is shown in the image",
    "paligemma": "caption en",
    "instructblip": "Describe the image in one sentence",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = MODELS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def plates() -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), np.full((64, 48, 3), 200, np.uint8)]


def _stage(folder: Path, **settings: Any) -> Transformers:
    return Transformers(str(folder), **{"max_new_tokens": 8, "device": "cpu", **settings})


def _record(monkeypatch: pytest.MonkeyPatch, stage: Transformers) -> list[dict[str, Any]]:
    """What the model is given from now on."""
    _, model = stage._loaded
    given: list[dict[str, Any]] = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: given.append(inputs) or generate(**inputs))
    return given


@pytest.mark.parametrize("name", MODELS)
def test_a_model_captions_alone_as_in_a_batch_and_nothing_is_printed(
    name: str, models: Callable[[str], Path], plates: list[Image], capfd: pytest.CaptureFixture[str]
) -> None:
    stage = _stage(models(name))
    stage.check()
    assert "_loaded" not in vars(stage)
    capfd.readouterr()
    answers = stage.answer(plates)
    assert capfd.readouterr() == ("", "")
    assert all(isinstance(answer, str) for answer in answers), answers
    assert any(answers)
    assert answers == [stage.answer([plate])[0] for plate in plates]
    assert not any("Describe" in str(answer) or "caption" in str(answer) for answer in answers), "not the question"


@pytest.mark.parametrize("name", ASKED)
def test_a_model_without_a_chat_template_is_given_its_own_task(
    name: str, models: Callable[[str], Path], plates: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = _stage(models(name))
    given = _record(monkeypatch, stage)
    stage(plates=plates)
    processor, _ = stage._loaded
    text = processor.tokenizer.decode(given[0]["input_ids"][0])
    assert ASKED[name] in text.replace("[UNK]", "a")
    assert {"pixel_values", "input_ids", "attention_mask"} <= given[0].keys()
    if name == "instructblip":
        assert {"qformer_input_ids", "qformer_attention_mask"} <= given[0].keys()


def test_a_prompt_replaces_the_task(
    models: Callable[[str], Path], plates: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = _stage(models("florence2"), prompt="<CAPTION>")
    given = _record(monkeypatch, stage)
    stage(plates=plates)
    text = stage._loaded[0].tokenizer.decode(given[0]["input_ids"][0])
    assert "paragraph" not in text
    assert "what" not in text.lower() or "Describe" not in text
    begun = _stage(models("git"), prompt="a grey road")
    given = _record(monkeypatch, begun)
    begun(plates=plates)
    assert begun._loaded[0].tokenizer.decode(given[0]["input_ids"][0]).split() == ["[CLS]", "a", "grey", "road"]


def test_a_chat_model_is_asked_not_to_think_aloud(
    models: Callable[[str], Path], plates: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("qwen2_5_vl", "smolvlm"):
        stage = _stage(models(name), prompt="the sky on the road")
        given = _record(monkeypatch, stage)
        stage(plates=plates)
        text = stage._loaded[0].tokenizer.decode(given[0]["input_ids"][0])
        assert "the sky on the road" in text
        assert text.split()[-1] == "soft", "the template's mark for enable_thinking = false"


def test_a_model_that_needs_a_text_is_told_before_the_work(
    models: Callable[[str], Path], plates: list[Image], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(models("llava"), bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(RecipeError, match=r"caption\.prompt: .* \(llava\) has no chat template and needs a text"):
        _stage(bare).check()
    stage = _stage(bare, prompt="the sky")
    stage.check()
    assert all(isinstance(answer, str) for answer in stage.answer(plates)), "the image's token is put in front"


def test_a_missing_small_package_is_told_before_the_work(
    models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "num2words" else find(name))
    with pytest.raises(UnavailableError, match="num2words is not installed"):
        _stage(models("smolvlm")).check()
    _stage(models("qwen2_5_vl")).check()


def test_a_settings_file_that_is_not_json_is_named(models: Callable[[str], Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(models("git"), torn)
    (torn / "config.json").write_text("{")
    with pytest.raises(UnavailableError, match=r"config\.json cannot be read"):
        _stage(torn).check()
    (torn / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UnavailableError, match=r"config\.json is not a JSON object"):
        _stage(torn).check()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a field of grass and a field of grass and a field of grass and a fie", "a field of grass"),
        ("a road in the fog, in the fog, in the fog, in the", "a road in the fog"),
        ("a wall wall wall wall wall", "a wall"),
        ("A road. The sky is grey. The sky is grey. The sky is grey. The sky", "A road. The sky is grey."),
        ("it is very, very cold", "it is very, very cold"),
        ("a grey road in the fog", "a grey road in the fog"),
        ("black and white and red", "black and white and red"),
        ("", ""),
    ],
)
def test_a_looped_caption_ends_after_its_first_round(text: str, kept: str) -> None:
    assert without_loop(text) == kept


def test_a_last_sentence_that_broke_off_is_dropped() -> None:
    assert whole_sentences("A road in fog. The sky is\n grey. On the le") == "A road in fog. The sky is grey."
    assert whole_sentences("a road in the fog") == "a road in the fog"
    assert whole_sentences("A road in fog.") == "A road in fog."


def test_a_looped_answer_of_a_model_is_cut_and_silence_fails_the_item(
    models: Callable[[str], Path], plates: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = _stage(models("git"))
    monkeypatch.setattr(type(stage), "answer", lambda self, plates: ["the sea on " * 30, "  "])
    looped, silent = stage(plates=plates)
    assert looped == "the sea on"
    assert isinstance(silent, ItemFailed)
