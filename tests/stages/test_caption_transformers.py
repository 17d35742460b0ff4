"""Captions by transformers: a tiny GIT and a tiny chat model, saved and loaded by the real classes."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from augment.errors import ItemFailed, UnavailableError
from augment.stages.caption.transformers import Transformers
from augment.testing.tiny import tiny_chat, tiny_git


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_git(tmp_path_factory.mktemp("git"))


@pytest.fixture(scope="module")
def plates() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    grey = np.full((64, 48, 3), 200, np.uint8)
    return [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), grey, np.zeros((32, 32, 3), np.uint8)]


def test_git_captions_each_plate_alike_alone_and_in_a_batch(git: Path, plates: list[np.ndarray]) -> None:
    stage = Transformers(str(git), max_new_tokens=12)
    stage.check()
    captions = stage(plates=plates)
    assert captions == [stage(plates=[plate])[0] for plate in plates]
    assert captions == Transformers(str(git), max_new_tokens=12, batch_size=1)(plates=plates)
    assert all(isinstance(caption, str) and caption == " ".join(caption.split()) for caption in captions)
    assert len(set(captions)) > 1, "the plate should have a say in its caption"


def test_max_new_tokens_bounds_the_caption(git: Path, plates: list[np.ndarray]) -> None:
    (caption,) = Transformers(str(git), max_new_tokens=3)(plates=plates[:1])
    assert isinstance(caption, str)
    assert 1 <= len(caption.split()) <= 3


def test_model_is_loaded_at_first_use_and_dropped_by_unload(git: Path, plates: list[np.ndarray]) -> None:
    stage = Transformers(str(git), max_new_tokens=3)
    assert "_loaded" not in vars(stage)
    first = stage(plates=plates)
    assert "_loaded" in vars(stage)
    assert pickle.loads(pickle.dumps(stage)) == stage
    stage.unload()
    assert set(vars(stage)) == set(stage.settings())
    assert stage(plates=plates) == first


def test_chat_model_is_asked_the_question_through_its_template(
    tmp_path: Path, plates: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Transformers(str(tiny_chat(tmp_path)), prompt="the sky on the road", max_new_tokens=12)
    processor, model = stage._loaded
    asked = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: asked.append(inputs) or generate(**inputs))
    captions = stage(plates=plates)
    text = processor.batch_decode(asked[0]["input_ids"])[0]
    assert "USER:" in text
    assert "the sky on the road" in text
    assert text.endswith("ASSISTANT:")
    assert all("USER" not in str(caption) for caption in captions)
    assert [str(caption) for caption in captions] == [str(stage(plates=[plate])[0]) for plate in plates]


def test_out_of_memory_halves_the_batch_and_goes_on(
    git: Path, plates: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Transformers(str(git), max_new_tokens=3)
    expected = stage(plates=plates)
    _, model = stage._loaded
    generate, sizes = model.generate, []

    def limited(pixel_values: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.append(len(pixel_values))
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("too many")
        return generate(pixel_values=pixel_values, **options)

    monkeypatch.setattr(model, "generate", limited)
    assert stage(plates=plates) == expected
    assert sizes == [3, 1, 1, 1]


def test_silence_fails_the_item(git: Path, plates: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Transformers(str(git))
    _, model = stage._loaded
    pad = model.config.pad_token_id
    monkeypatch.setattr(model, "generate", lambda pixel_values, **_: torch.full((len(pixel_values), 4), pad))
    assert [type(caption) for caption in stage(plates=plates)] == [ItemFailed] * len(plates)


def test_weights_that_are_not_safetensors_are_not_loaded(git: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(git, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnavailableError, match=r"it has no \*\.safetensors"):
        Transformers(str(folder)).check()


def test_broken_weights_are_named(git: Path, tmp_path: Path, plates: list[np.ndarray]) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(git, folder)
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UnavailableError, match="transformers cannot load it from"):
        Transformers(str(folder))(plates=plates)


def test_revision_is_a_setting_of_the_result_and_the_batch_is_not() -> None:
    assert "revision" in Transformers().settings()
    assert "revision" not in Transformers.execution_only
    assert {"batch_size", "device", "dtype"} == Transformers.execution_only
