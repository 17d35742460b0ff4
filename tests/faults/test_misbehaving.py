"""Models that raise, exit, hang, or return what they should not: the item fails with a reason, and the others go on."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import PIL.Image
import pytest
import torch

from augment import Cache, prewarm
from augment.errors import InputError, RecipeError
from augment.prewarming import Ended
from augment.store.verify import verify
from augment.testing.pictures import scene
from tests import simple
from tests.faults.misbehaving import BATCH, HANGS, ITEM, KIND, WIDTH, recipe

pytestmark = pytest.mark.faults


@pytest.fixture
def images(tmp_path):
    """Four images, of which the second one goes wrong."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, width in enumerate((112, WIDTH, 112, 112)):
        PIL.Image.fromarray(scene(number, (96, width))[0]).save(folder / f"{number}.png")
    return folder


def fill(images, recipe, **arguments):
    cache = images.parent / "cache"
    return prewarm(images, cache, recipe, **({"workers": 0, "progress": False} | arguments))


def check_failure(report, kind, folder):
    """The bad image fails, at its stage and in one line; the others are complete and nothing wrong was kept."""
    assert (report.images, report.complete) == (4, 3)
    (failure,) = report.failures
    assert "1.png" in failure.source
    assert failure.stage == ("generate" if kind == "guard" else kind)
    assert re.fullmatch(r"[^\n]{10,300}", failure.reason)
    assert verify(Cache(folder)).wrong == []
    return failure.reason


# A guard says by None that nothing is wrong.
CASES = [(kind, fault) for kind in KIND for fault in [*BATCH, *ITEM] if (kind, fault) != ("guard", "returns None")]


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_fault_stays_with_its_item(images, kind, fault):
    check_failure(fill(images, recipe(kind, fault)), kind, images.parent / "cache")


@pytest.mark.parametrize("fault", HANGS)
def test_an_item_that_exceeds_the_limit_fails_and_the_run_goes_on(images, fault):
    report = fill(images, recipe("caption", fault), batch_timeout=2)
    reason = check_failure(report, "caption", images.parent / "cache")
    assert reason.startswith("its process was killed by SIGKILL" if fault == "dies" else "it did not return within 2 s")


@pytest.mark.parametrize("kind", ["remove", "inpaint", "guard"])
def test_every_kind_may_have_a_limit_and_makes_the_same(images, kind):
    check_failure(fill(images, recipe(kind, "in C"), batch_timeout=2, workers=2), kind, images.parent / "cache")
    limited = Cache(images.parent / "cache")
    prewarm(images, other := Cache(images.parent / "other"), recipe(kind, "raises"), progress=False)
    names = {name.replace("/", " ", 1).split("/", 1)[1] for name in limited.names()}
    assert names == {name.replace("/", " ", 1).split("/", 1)[1] for name in other.names()}


def test_a_stage_that_hangs_for_every_item_ends_the_run(images):
    for number in range(4, 7):
        PIL.Image.fromarray(scene(number, (96, WIDTH))[0]).save(images / f"{number}.png")
    for number in (0, 2, 3):
        (images / f"{number}.png").unlink()
    for number in (7, 8):
        PIL.Image.fromarray(scene(number, (96, WIDTH))[0]).save(images / f"{number}.png")
    with pytest.raises(Ended, match=r"caption: it did not return within 0.3 s \(so for the first"):
        fill(images, recipe("caption", "in C"), batch_timeout=0.3)


@dataclass(frozen=True)
class Loading(simple.SizeCaptioner):
    backend: ClassVar[str] = "loading"

    def __reduce__(self):
        raise TypeError("it holds a socket")


def test_a_stage_that_cannot_be_sent_to_a_process_is_said_before_it_is_called(images):
    with pytest.raises(RecipeError, match=r"loading: it cannot run in a process of its own.*it holds a socket"):
        fill(images, simple.recipe().changed({"caption": Loading()}), batch_timeout=5)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_no_number_of_seconds_is_refused(images, seconds):
    with pytest.raises(InputError, match="batch_timeout: "):
        fill(images, simple.recipe(), batch_timeout=seconds)


def test_a_script_without_a_guard_is_told_what_it_needs(images):
    script = images.parent / "script.py"
    script.write_text(
        "from augment import prewarm\nfrom tests import simple\n"
        f"prewarm({str(images)!r}, {str(images.parent / 'cache')!r}, simple.recipe(), workers=0, batch_timeout=5)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert 'has to do so below `if __name__ == "__main__":`' in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("fault", ["in Python", "in C"])
def test_ctrl_c_twice_ends_a_run_that_hangs_and_nothing_is_lost(images, fault):
    (images.parent / "mine.toml").write_text(recipe("caption", fault).to_toml())
    arguments = [str(images), "--cache", str(images.parent / "cache"), "--recipe", str(images.parent / "mine.toml")]
    process = subprocess.Popen(
        [sys.executable, "-m", "augment", "prewarm", *arguments, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"COLUMNS": "1000"},  # so that the log folds no line
    )
    cache = images.parent / "cache"
    while not (cache / "entries").is_dir() or sum(name.startswith("plate/") for name in Cache(cache).names()) < 4:
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    said = next(line for line in process.stderr if "is still at work on" in line)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "1.png" in said
    assert "press Ctrl-C again" in said
    assert "caption was stopped while it was at work on" in out
    assert out.rstrip().endswith("run the same command again to continue.")
    assert "Traceback" not in err
    assert verify(Cache(cache)).wrong == []
    assert sum(name.startswith("plate/") for name in Cache(cache).names()) == 4
    report = fill(images, recipe("caption", "raises"))
    assert [stage.computed for stage in report.stages.values()][:2] == [0, 0]


@dataclass(frozen=True)
class Large(simple.SizeCaptioner):
    """Has no memory for more than `fits` items at once."""

    backend: ClassVar[str] = "large"
    fits: int = 1
    torchs: bool = False

    def __call__(self, *, plates):
        if len(plates) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory") if self.torchs else MemoryError()
        return super().__call__(plates=plates)


@pytest.mark.parametrize("torchs", [False, True])
@pytest.mark.parametrize("fits", range(4))
def test_a_stage_without_memory_for_its_batch_is_called_item_by_item(images, fits, torchs):
    model = Large(batch_size=3, fits=fits, torchs=torchs)
    report = fill(images, simple.recipe().changed({"caption": model}))
    assert (report.complete, len(report.failures)) == ((4, 0) if fits else (0, 4))
    assert all("emory" in failure.reason for failure in report.failures)
