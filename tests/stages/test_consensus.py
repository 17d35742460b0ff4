"""Two removers that must agree, made of quick ones and of the real ones of the light preset."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from augment import Recipe, prewarm
from augment.artifacts import Image, Matte
from augment.errors import ItemFailed, RecipeError, UnavailableError
from augment.stages.base import Item
from augment.stages.remove import Remover
from augment.stages.remove.consensus import Consensus
from augment.stages.remove.masks import Masks
from augment.stages.remove.onnx import Onnx
from augment.testing.pictures import write_folder
from augment.testing.scenes import scenes
from benchmarks.mattes import Summary, score
from tests import simple

IMAGE = np.zeros((40, 100, 3), np.uint8)


@dataclass(frozen=True)
class Columns(Remover):
    """The first `count` columns are object; it doubts every matte, and fails if there are none."""

    backend: ClassVar[str] = "columns"
    batch_size: int = 3

    count: int = 50

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte | ItemFailed]:
        return [self._matte(image) for image in images]

    def _matte(self, image: Image) -> Matte | ItemFailed:
        if self.count < 0:
            return ItemFailed("no columns")
        alpha = np.zeros(image.shape[:2], np.uint8)
        alpha[:, : self.count] = 255
        return Matte.from_full(alpha, 0.1, "doubtful: I never know")


@dataclass(frozen=True)
class Threads(Columns):
    """Waits until a second image is at work in another thread."""

    backend: ClassVar[str] = "threads"
    parallel: ClassVar[bool] = True

    def __call__(self, *, images: Sequence[Image], **_: Any) -> list[Matte | ItemFailed]:
        assert len(images) == 1
        _MEETING.wait(timeout=60)
        return super().__call__(images=images)


_MEETING = threading.Barrier(2)


def only(stage: Consensus, **given: Any) -> Matte | ItemFailed:
    nothing: dict[str, Any] = {"masks": [None], "boxes": [None], "sources": [None]}
    (matte,) = stage(images=[IMAGE], **(nothing | given))
    return matte


def test_the_first_one_s_matte_is_kept_whatever_either_thinks_of_its_own() -> None:
    matte = only(Consensus(first=Columns(count=50), second=Columns(count=40)))
    assert isinstance(matte, Matte)
    assert matte.unusable is None
    assert matte.box == (0, 0, 50, 40)
    assert matte.confidence == pytest.approx(0.8)


def test_the_verdict_says_how_far_they_differ() -> None:
    matte = only(Consensus(first=Columns(count=50), second=Columns(count=20), agreement=0.5))
    assert isinstance(matte, Matte)
    assert matte.unusable == "doubtful: columns and columns differ, IoU 0.40 is below 0.50"
    assert matte.box == (0, 0, 50, 40)


@pytest.mark.parametrize(("count", "start"), [(0, "empty"), (100, "full")])
def test_an_empty_or_full_matte_stays_unusable_although_both_agree(count: int, start: str) -> None:
    matte = only(Consensus(first=Columns(count=count), second=Columns(count=count)))
    assert isinstance(matte, Matte)
    assert matte.unusable is not None
    assert matte.unusable.startswith(("doubtful: I never know", start))


@pytest.mark.parametrize("failing", ["first", "second"])
def test_an_item_that_either_fails_on_fails(failing: str) -> None:
    stage = replace(Consensus(first=Columns(), second=Columns()), **{failing: Columns(count=-1)})
    assert isinstance(only(stage), ItemFailed)


def test_it_reads_what_its_removers_read(tmp_path: Path) -> None:
    stage = Consensus(first=Columns(count=50), second=Masks())
    mask = np.zeros(IMAGE.shape[:2], np.uint8)
    mask[:, :50] = 1
    matte = only(stage, masks=[mask])
    assert isinstance(matte, Matte)
    assert matte.confidence == 1
    item = Item(IMAGE, "0" * 32, "a.png", mask=mask)
    assert stage.reads(item) != stage.reads(replace(item, mask=mask[::-1, ::-1])) != ""
    assert stage.reads(item) != stage.reads(replace(item, mask=None)) == ""
    assert Consensus(first=Columns(), second=Onnx()).reads(item) == ""


def test_a_remover_without_a_model_works_on_several_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    mattes = Consensus(first=Columns(), second=Threads())(images=[IMAGE] * 4)
    assert [matte.confidence for matte in mattes if isinstance(matte, Matte)] == [1] * 4


def test_it_goes_to_toml_and_back_and_its_removers_are_tables_of_their_own(tmp_path: Path) -> None:
    recipe = simple.recipe().changed({"remove": {"backend": "consensus", "second": {"backend": "red"}}})
    assert recipe.remove == Consensus(second=simple.RedRemover())
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    changed = recipe.changed({"remove.second.broken": 7, "remove.agreement": 0.9})
    assert changed.remove == Consensus(second=simple.RedRemover(broken=7), agreement=0.9)
    assert changed.fingerprints()["remove"] != recipe.fingerprints()["remove"]
    assert set(recipe.all_stages) >= {"remove", "remove.first", "remove.second"}
    with pytest.raises(RecipeError, match=r"remove\.second\.backend: 'exemplar' is not one of"):
        recipe.changed({"remove.second.backend": "exemplar"})


def test_it_runs_in_a_chain_and_a_model_that_is_missing_ends_the_run_early(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 5)
    both = Consensus(first=simple.RedRemover(), second=simple.RedRemover(batch_size=2))
    report = prewarm(
        tmp_path / "images", tmp_path / "cache", simple.recipe().changed({"remove": both}), workers=0, progress=False
    )
    assert (report.images, report.complete) == (5, 5)
    missing = simple.recipe().changed({"remove": Consensus(first=Onnx(str(tmp_path / "no.onnx")))})
    with pytest.raises(UnavailableError, match=r"no\.onnx"):
        prewarm(tmp_path / "images", tmp_path / "cache", missing, workers=0, progress=False)


@pytest.mark.usefixtures("stamps", "wallpapers")
def test_the_light_preset_keeps_most_mattes_and_nearly_all_of_those_are_right(u2netp: Path) -> None:
    remover = Recipe.load("light").changed({"remove.first.model": str(u2netp)}).remove
    assert isinstance(remover, Consensus)
    made = list(scenes(24, size=320, seed=3))
    nothing = [None] * len(made)
    mattes = remover(images=[scene.image for scene in made], masks=nothing, boxes=nothing, sources=nothing)
    scores = [score(matte, scene) for matte, scene in zip(mattes, made, strict=True) if isinstance(matte, Matte)]
    kept = Summary.of([one for one in scores if one.accepted])
    assert kept.count >= 0.5 * len(made)
    assert kept.median_overlap >= 0.88
    assert kept.poor <= 0.1
