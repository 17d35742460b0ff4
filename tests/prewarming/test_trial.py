"""A fault of the whole stage ends the run after a few items, in its own words; a fault of some items does not."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import pytest

from augment import Cache, prewarm
from augment.errors import ItemFailed, UnavailableError
from augment.prewarming import Ended
from augment.prewarming.report import Failure, Report, same_words
from augment.prewarming.trial import TRIES, spread
from augment.stages.generate.webui import WebUi
from augment.stages.inpaint import Inpainter
from augment.stages.refine.openai import OpenAi
from augment.stages.remove import Remover
from augment.testing.pictures import write_folder
from tests import simple
from tests.chat_server import ChatServer
from tests.simple import CALLS, RedRemover
from tests.webui_server import WebUiServer

needs_models = pytest.mark.skipif(find_spec("httpcore") is None, reason="servers are asked with the extra models")


def fill(folder: Any, recipe: Any, **arguments: Any) -> Report:
    return prewarm(folder / "images", folder / "cache", recipe, **({"workers": 0, "progress": False} | arguments))


@needs_models
def test_a_fault_of_the_server_is_met_by_a_few_items_and_said_once(tmp_path: Any) -> None:
    write_folder(tmp_path / "images", 12)
    with WebUiServer() as server:
        server.statuses = [404] * 1000
        with pytest.raises(Ended, match="generate: http.*HTTP 404: broken on request .so for the first 5") as ended:
            fill(tmp_path, simple.recipe().changed({"generate": WebUi(base_url=server.url, size=64)}), variants=3)
        assert len(server.of("txt2img")) <= TRIES + 1
        assert ended.value.report.stages["refine"].computed == 36
        kept = Cache(tmp_path / "cache")
        assert sum(name.startswith("prompt/") for name in kept.names()) == 36
        server.statuses = []
        report = fill(tmp_path, simple.recipe().changed({"generate": WebUi(base_url=server.url, size=64)}), variants=3)
    assert (report.complete, report.failures) == (12, [])


@needs_models
def test_an_exhausted_quota_costs_one_question(tmp_path: Any) -> None:
    write_folder(tmp_path / "images", 12)
    with ChatServer() as server:
        server.statuses, server.message = [429] * 1000, "You exceeded your current quota"
        with pytest.raises(UnavailableError, match="exceeded your current quota"):
            fill(tmp_path, simple.recipe().changed({"refine": OpenAi(model="words", base_url=server.url)}))
        assert len(server.requests) <= 2


@needs_models
def test_a_server_that_fails_for_every_item_is_not_asked_for_all_of_them(tmp_path: Any) -> None:
    write_folder(tmp_path / "images", 20)
    with ChatServer() as server:
        server.statuses, server.message = [400] * 1000, "the request of 2026-11-25 at 17:03 was bad"
        with pytest.raises(UnavailableError, match="refine: .*was bad"):
            fill(tmp_path, simple.recipe().changed({"refine": OpenAi(model="words", base_url=server.url)}))
        assert len(server.requests) <= TRIES + 1


@dataclass(frozen=True)
class Picky(RedRemover):
    """Fails for the first `bad` images of a folder, by their names."""

    backend: ClassVar[str] = "picky"
    bad: int = 0

    def __call__(self, *, images: Any, sources: Any, **_: Any) -> Any:
        numbers = [int(source[-7:-4]) for source in sources]
        mattes = super().__call__(images=images)
        return [
            ItemFailed(f"no mask of {number}") if number < self.bad else matte
            for number, matte in zip(numbers, mattes, strict=True)
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_class_whose_images_all_fail_does_not_end_the_run(tmp_path: Any, workers: int) -> None:
    write_folder(tmp_path / "images", 20)
    recipe = simple.recipe().changed({"remove": Picky(bad=14)})
    paths = sorted((tmp_path / "images").rglob("*.png"), key=lambda path: path.name)
    report = prewarm(paths, tmp_path / "cache", recipe, workers=workers, progress=False)
    assert (report.images, report.complete, len(report.failures)) == (20, 6, 14)
    assert {failure.reason for failure in report.failures} == {f"no mask of {number}" for number in range(14)}


@pytest.mark.parametrize(("bad", "is_ended"), [(40, True), (4, False)])
def test_the_first_stage_ends_only_if_images_from_all_over_fail(tmp_path: Any, bad: int, is_ended: bool) -> None:
    write_folder(tmp_path / "images", 40)
    recipe = simple.recipe().changed({"remove": Picky(bad=bad)})
    CALLS.clear()
    if is_ended:
        with pytest.raises(UnavailableError, match="remove: no mask of .*taken from all over the dataset"):
            fill(tmp_path, recipe)
        assert CALLS["remove"] < 4 * TRIES
    else:
        assert fill(tmp_path, recipe).complete == 36


@dataclass(frozen=True)
class Broken(Inpainter):
    """A stage without a model, run in several threads, that fails always."""

    backend: ClassVar[str] = "broken"
    parallel: ClassVar[bool] = True

    def __call__(self, **_: Any) -> Any:
        CALLS["broken"] += 1
        raise OSError("no space left in /dev/shm")


def test_a_stage_that_runs_in_threads_ends_too(tmp_path: Any) -> None:
    write_folder(tmp_path / "images", 30)
    CALLS.clear()
    with pytest.raises(UnavailableError, match="inpaint: OSError: no space left in /dev/shm"):
        fill(tmp_path, simple.recipe().changed({"inpaint": Broken()}), workers=2)
    assert CALLS["broken"] < 15


def test_a_dataset_of_few_images_lists_its_failures(tmp_path: Any) -> None:
    write_folder(tmp_path / "images", TRIES - 1)
    report = fill(tmp_path, simple.recipe().changed({"inpaint": Broken()}))
    assert len(report.failures) == TRIES - 1


def test_batches_are_whole_once_an_item_has_succeeded(tmp_path: Any) -> None:
    write_folder(tmp_path / "images", 40)
    sizes = []

    @dataclass(frozen=True)
    class Sized(RedRemover):
        backend: ClassVar[str] = "sized"

        def __call__(self, *, images: Any, **_: Any) -> Any:
            sizes.append(len(images))
            return super().__call__(images=images)

    fill(tmp_path, simple.recipe().changed({"remove": Sized(batch_size=8)}))
    assert sum(sizes) == 40
    assert sizes.count(8) >= 4
    assert issubclass(Sized, Remover)


def test_equal_reasons_are_grouped_with_a_count_and_an_example() -> None:
    failures = [Failure(f"{n}.png", "generate", f"HTTP 500: request {n:08x}a1 failed after {n}.5 s") for n in range(9)]
    report = Report(failures=[*failures, Failure("x.png", "decode", "no picture")])
    lines = [line for line in str(report).splitlines() if "failed  " in line]
    assert lines == [
        "  failed         9 generate: HTTP 500: request 00000000a1 failed after 0.5 s (for example 0.png)",
        "  failed    x.png: decode: no picture",
    ]


def test_the_first_items_are_taken_from_all_over() -> None:
    assert spread(range(21)) == [0, 5, 10, 15, 20, *(n for n in range(21) if n % 5)]
    assert spread([1, 2]) == [1, 2]
    assert same_words("CUDA error 12 at 0x7fa3") == same_words("CUDA error 7 at 0x1b")
    assert same_words("a beef cafe") == "a beef cafe"
