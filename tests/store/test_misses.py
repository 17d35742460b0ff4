"""Images that training looked for and did not find."""

import os

import PIL.Image
from typer.testing import CliRunner

from augment import Cache, prewarm
from augment.cli import app
from augment.keys import image_key
from augment.store.misses import Misses
from augment.testing.pictures import scene, write_folder
from augment.torchvision import ReplaceBackground
from tests import simple


def test_misses_of_all_processes_are_noted_once_and_filled_by_prewarm_missing(tmp_path):
    paths = write_folder(tmp_path / "images", 5)
    cache, recipe = Cache(tmp_path / "cache"), simple.recipe()
    prewarm(paths[:2], cache, recipe, workers=0, progress=False)
    replace = ReplaceBackground(cache, p=1)
    stranger = PIL.Image.fromarray(scene(77)[0])
    for _ in range(3):
        for image in (*map(PIL.Image.open, paths[:4]), stranger):
            replace(image)
    pid = os.fork()
    if pid == 0:
        try:
            ReplaceBackground(cache, p=1)(PIL.Image.open(paths[2]))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    file = cache.misses(cache.recipes()[-1])
    missed = [image_key(PIL.Image.open(path)) for path in paths[2:4]] + [image_key(stranger)]
    assert sorted(file.path.read_text().split()) == sorted(missed)
    report = prewarm(tmp_path / "images", cache, recipe, workers=0, progress=False, missing=True)
    assert (report.images, report.complete) == (2, 2)
    assert file.read() == {image_key(stranger)}
    assert replace(PIL.Image.open(paths[2])) is not None
    assert ReplaceBackground(cache, p=1, on_miss="raise")(PIL.Image.open(paths[3])).size == (112, 96)


def test_the_command_line_fills_only_the_misses(tmp_path):
    paths = write_folder(tmp_path / "images", 3)
    (tmp_path / "simple.toml").write_text(simple.recipe().to_toml())
    cache = Cache(tmp_path / "cache")
    prewarm(paths[:1], cache, simple.recipe(), workers=0, progress=False)
    ReplaceBackground(cache, p=1)(PIL.Image.open(paths[1]))
    arguments = ["--cache", cache.directory, "--recipe", tmp_path / "simple.toml", "--workers", 0, "--missing"]
    done = CliRunner().invoke(app, ["prewarm", str(tmp_path / "images"), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert "\n1 images: 1 complete" in done.output


def test_misses_are_capped_and_an_unwritable_folder_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr("augment.store.misses._MOST", 3)
    cache = Cache(tmp_path / "cache")
    prewarm([scene(0)[0]], cache, simple.recipe(), workers=0, progress=False)
    record = cache.recipes()[-1]
    noted = cache.misses(record)
    for n in range(9):
        noted.add(f"{n:032x}")
    assert len(noted.read()) == 3
    blocked = Misses(noted.path)
    blocked.path = tmp_path / "cache" / "store.json" / "x.txt"
    blocked.add("0" * 32)
    assert blocked.read() == set()
