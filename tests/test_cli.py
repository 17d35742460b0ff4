"""The command line as a subprocess: what it prints, and its exit codes."""

import os
import re
import signal
import subprocess
import sys
import time

import PIL.Image
import pytest

from augment import Cache, Recipe, open_store
from augment.testing.pictures import write_folder
from tests import simple


def augment(*arguments, **options):
    command = [sys.executable, "-m", "augment", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)


def test_prewarm_fills_a_cache_and_reports_what_it_did(tmp_path):
    write_folder(tmp_path / "images", 3)
    done = augment("prewarm", tmp_path / "images", "--cache", tmp_path / "cache", "--variants", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 images: 3 complete, 0 with an unusable matte, 0 failures")
    assert "generate: 6/6" in done.stderr
    assert open_store(tmp_path / "cache").recipes()[0].variants == 2
    again = augment("prewarm", tmp_path / "images", "--cache", tmp_path / "cache", "--variants", 2)
    assert "0 computed, 6 found" in again.stdout


def test_a_bad_file_is_listed_and_the_exit_code_is_one(tmp_path):
    write_folder(tmp_path / "images", 1)
    (tmp_path / "images" / "text.jpg").write_text("not a picture")
    done = augment("prewarm", tmp_path / "images", "--cache", tmp_path / "cache")
    assert done.returncode == 1
    assert "text.jpg: decode: PIL cannot read it as an image" in done.stdout
    assert "1 complete" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prewarm", "nowhere", "--cache", "cache"), "augment: nowhere: there is no such folder"),
        (("prewarm", "empty", "--cache", "cache"), "augment: empty: no images in it or its subfolders"),
        (("prewarm", "photo.png", "--cache", "photo.png"), "augment: cannot make a cache at"),
        (("prewarm", "photo.png", "--cache", "."), "is not empty and not a cache"),
        (("prewarm", "photo.png", "--cache", "cache", "--recipe", "clasic"), "augment: no recipe is called 'clasic'"),
        (("prewarm", "photo.png"), "Missing option '--cache'"),
        (("prewarm", "photo.png", "--cache", "cache", "--variants", "0"), "--variants"),
        (("recipes", "nothing"), "augment: no recipe is called 'nothing'"),
        (("paint",), "No such command 'paint'"),
    ],
)
def test_wrong_use_is_reported_in_one_line_with_exit_code_two(tmp_path, arguments, message):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "empty").mkdir()
    done = augment(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_recipes_are_listed_and_printed_as_toml():
    assert "classic" in augment("recipes").stdout
    assert Recipe.from_toml(augment("recipes", "classic").stdout) == Recipe.load("classic")


def test_ctrl_c_exits_with_130_and_keeps_finished_work(tmp_path):
    write_folder(tmp_path / "images", 40)
    command = [sys.executable, "-m", "augment", "prewarm", str(tmp_path / "images"), "--cache", str(tmp_path / "cache")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "cache" / "entries" / "007").is_dir():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.rstrip().endswith("run the same command again to continue.")
    assert "Traceback" not in err
    names = Cache(tmp_path / "cache").names()
    assert all(Cache(tmp_path / "cache").get(name) is not None for name in names)


def test_the_demo_runs_from_start_to_end(tmp_path):
    done = augment("demo", "-o", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert ", 0 failures" in done.stdout
    assert "Trained 12 steps of 16 with two workers" in done.stdout
    assert ", 0 misses" in done.stdout
    assert "Next: augment prewarm" in done.stdout
    for photo in ("astronaut", "coffee", "rocket"):
        folder = tmp_path / "demo" / "pictures" / photo
        names = {path.name for path in folder.iterdir()}
        assert {"original.png", "object.png", "plate.png", "background_0.png", "composite_0.png"} <= names
        with PIL.Image.open(folder / "original.png") as image, PIL.Image.open(folder / "composite_0.png") as composite:
            assert image.size == composite.size
    with PIL.Image.open(tmp_path / "demo" / "sheet.png") as sheet:
        assert sheet.width > 1000


def test_the_version_is_the_packages():
    import augment as package

    assert augment("--version").stdout.strip() == package.__version__


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "prewarm", "run", "doctor", "recipes", "verify", "gallery", "reject", "scenes", "inspect", "apply"),
        *("export", "import"),
    ],
)
def test_every_help_has_an_example(command):
    assert f"Example: augment {command}" in " ".join(augment(command, "--help").stdout.split())


def test_prewarm_exits_with_one_if_nothing_is_complete_and_writes_its_report(tmp_path):
    PIL.Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "flat.png")
    done = augment("prewarm", tmp_path / "flat.png", "--cache", tmp_path / "cache", "--report", tmp_path / "r.csv")
    assert done.returncode == 1
    assert "flat.png" in (tmp_path / "r.csv").read_text()


def test_quiet_shows_neither_progress_nor_warnings_but_the_result(tmp_path):
    images, cache = tmp_path / "images", tmp_path / "cache"
    write_folder(images, 2)
    recipe = simple.recipe().to_toml()
    (tmp_path / "simple.toml").write_text(recipe)
    commands = {
        ("prewarm", images, "--cache", cache): "2 images: 2 complete",
        ("scenes", "a city street", "--cache", cache, "--recipe", tmp_path / "simple.toml"): "1 scenes: 1 complete",
        ("apply", images, "--cache", cache, "-o", tmp_path / "new"): "2 images",
        ("gallery", cache, "-o", tmp_path / "page.html"): "2 images: ",
        ("inspect", cache): str(cache),
    }
    for command, result in commands.items():
        done = augment("--quiet", *command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout.startswith(result), done.stdout


def test_a_log_file_has_messages_with_times_and_levels(tmp_path):
    write_folder(tmp_path / "images", 1)
    done = augment("--log-file", tmp_path / "log.txt", "prewarm", tmp_path / "images", "--cache", tmp_path / "cache")
    assert done.returncode == 0
    text = (tmp_path / "log.txt").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d [\d:,]+ INFO augment\.prewarming: 1 images: 1 complete", text, re.M)
    assert "INFO" not in done.stderr


def test_a_log_file_that_cannot_be_written_is_one_sentence(tmp_path):
    done = augment("--log-file", tmp_path, "recipes")
    assert done.returncode == 2
    assert done.stderr == f"augment: --log-file {tmp_path}: it cannot be written: Is a directory\n"
