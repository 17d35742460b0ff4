"""The examples run as they are."""

import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from tests.pictures import scene, write_folder

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_imagefolder_prewarms_and_trains(tmp_path):
    write_folder(tmp_path / "images", 6)
    arguments = ("--cache", tmp_path / "cache", "--epochs", 2, "--size", 32, "--batch-size", 3, "--workers", 1)
    out = run("train_imagefolder.py", tmp_path / "images", *arguments)
    assert out.startswith("6 images: ")
    assert "epoch 1: loss" in out
    assert "'misses': 0" in out


def test_own_masks_uses_a_folder_and_a_dataset(tmp_path):
    paths = write_folder(tmp_path / "images", 3)
    for path in paths:
        mask = tmp_path / "masks" / path.relative_to(tmp_path / "images")
        mask.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray((scene(int(path.stem))[1] > 127).astype("uint8")).save(mask)
    out = run("own_masks.py", tmp_path / "images", tmp_path / "masks", "--cache", tmp_path / "cache")
    assert out.count("3 images: 3 complete") == 2
    assert "'hits': 3, 'misses': 0" in out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_run_by_a_test(path):
    assert path.name in Path(__file__).read_text()
