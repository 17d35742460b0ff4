"""A pipe, a device or a folder in place of a file that a user names is refused; opening a pipe would wait forever."""

import os
import signal

import PIL.Image
import pytest

from augment import Recipe, prewarm
from augment.commands.run import run
from augment.errors import AugmentError, InputError
from augment.prewarming import Report
from augment.prewarming.folders import read_table
from augment.testing.pictures import scene
from augment.torchvision import ImageLoader
from tests import simple

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def _not_for_ever():
    """A test that waits is ended by a signal, which an open of a pipe does not survive."""

    def end(number, frame):
        raise TimeoutError("it waited for a pipe")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def with_refine(**settings):
    return simple.recipe().changed({"refine": settings})


READERS = {
    "a recipe": (".toml", Recipe.load),
    "prompts": (".txt", lambda path: with_refine(backend="prompts", file=str(path)).refine.check_files()),
    "domains": (".toml", lambda path: with_refine(backend="templates", domains=str(path)).refine.check_files()),
    "a table of images": (".csv", read_table),
    "a report": (".csv", lambda path: Report().save(path)),
    "the image of a run": (".png", lambda path: run(path, path.parent / "out", simple.recipe())),
    "an image that a loader reads": (".png", ImageLoader()),
}
PLACED = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "an endless device": lambda path: os.symlink("/dev/zero", path),
}


@pytest.mark.parametrize("place", PLACED.values(), ids=PLACED)
@pytest.mark.parametrize(("suffix", "read"), READERS.values(), ids=READERS)
def test_what_is_no_file_is_refused_in_one_sentence(tmp_path, suffix, read, place):
    path = tmp_path / f"named{suffix}"
    place(path)
    expected = OSError if isinstance(read, ImageLoader) else AugmentError
    with pytest.raises(
        expected, match=r"named\.\w+.*(folder|regular file|irectory)|(folder|regular file).*named"
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("place", PLACED.values(), ids=PLACED)
def test_an_image_that_is_no_file_fails_by_itself(tmp_path, place):
    PIL.Image.fromarray(scene(0)[0]).save(tmp_path / "a.png")
    place(tmp_path / "b.png")
    report = prewarm(
        [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "cache", simple.recipe(), workers=1, progress=False
    )
    assert report.complete == 1
    assert [failure.source for failure in report.failures] == [str(tmp_path / "b.png")]


@pytest.mark.parametrize("place", PLACED.values(), ids=PLACED)
def test_a_photograph_that_is_no_file_is_passed_over(tmp_path, place):
    PIL.Image.fromarray(scene(0)[0]).save(tmp_path / "a.png")
    (tmp_path / "photographs").mkdir()
    place(tmp_path / "photographs" / "b.png")
    PIL.Image.fromarray(scene(1)[0]).save(os.fsencode(tmp_path / "photographs") + b"/caf\xe9.png")
    recipe = simple.recipe().changed({"generate": {"backend": "folder", "folder": str(tmp_path / "photographs")}})
    assert (
        prewarm([tmp_path / "a.png"], tmp_path / "cache", recipe, variants=3, workers=0, progress=False).complete == 1
    )


def test_a_missing_image_of_a_run_is_still_said_to_be_missing(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        run(tmp_path / "a.png", tmp_path / "out", simple.recipe())
