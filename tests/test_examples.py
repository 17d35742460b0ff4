"""The examples run as they are."""

import json
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from augment import Cache, Recipe
from augment.testing.pictures import scene, write_folder
from tests.commands.labeled import yolo
from tests.webui_server import WebUiServer

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


@pytest.mark.parametrize("suffixes", [(".png", ".png"), (".jpg", ".png"), (".JPG", ".bmp"), (".tif", ".tif")], ids=str)
def test_own_masks_uses_a_folder_and_a_dataset(tmp_path, suffixes):
    for number, path in enumerate(write_folder(tmp_path / "images", 4)):
        image = path.with_suffix(suffixes[0])
        PIL.Image.open(path).save(image, quality=95)
        if image != path:
            path.unlink()
        mask = (tmp_path / "masks" / path.relative_to(tmp_path / "images")).with_suffix(suffixes[1])
        mask.parent.mkdir(parents=True, exist_ok=True)
        values = PIL.Image.fromarray((scene(int(path.stem))[1] > 127).astype("uint8"))
        if number == 1:
            values.putpalette([0, 0, 0, 0, 0, 0])  # its colors are all black
        if number < 3:
            values.save(mask)
    out = run("own_masks.py", tmp_path / "images", tmp_path / "masks", "--cache", tmp_path / "cache")
    assert "3 images: 3 complete" in out
    assert out.count("has no mask in") == 2
    assert "'hits': 3, 'misses': 0" in out


def test_own_backend_fills_a_cache_with_its_mattes(tmp_path):
    image = np.full((64, 80, 3), 40, np.uint8)
    image += np.random.default_rng(0).integers(0, 30, image.shape, np.uint8)
    image[16:48, 20:60] = 220
    (tmp_path / "images").mkdir()
    PIL.Image.fromarray(image).save(tmp_path / "images" / "a.png")
    out = run("own_backend.py", tmp_path / "images", "--cache", tmp_path / "cache")
    assert out.startswith("1 images: 1 complete")
    provenance = Cache(tmp_path / "cache").provenance(
        next(n for n in Cache(tmp_path / "cache").names() if "matte" in n)
    )
    assert (provenance["backend"], provenance["settings"]["offset"]) == ("bright", 10)


def test_contextual_runs_the_prototypes_prompt_against_what_is_configured(tmp_path, monkeypatch, capsys):
    with WebUiServer() as server:
        server.answer = '{"person": "a woman in a grey coat, walking", "car": "a parked yellow taxi"}'
        recipe = Recipe.load("webui").changed(
            {
                "generate.base_url": server.url,
                "enrich.inpainter.base_url": server.url,
                "enrich.chat.base_url": f"{server.url}/v1",
                "enrich.detector": {"backend": "fixed-detector", "labels": ["person", "car"]},
            }
        )
        (tmp_path / "mine.toml").write_text(recipe.to_toml())
        arguments = ["-o", tmp_path / "out", "--recipe", tmp_path / "mine.toml", "--depth", "2", "--size", "96", "80"]
        monkeypatch.setattr(sys, "argv", ["contextual.py", *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / "contextual.py"), run_name="__main__")
        assert server.of("txt2img")[0]["prompt"] == "full body, city background, walking"
    assert capsys.readouterr().out.startswith("1 scenes: 1 complete")
    (scene,) = json.loads((tmp_path / "out" / "trace.json").read_text())["scenes"]
    assert {(step["round"], step["prompt"], step["origin"]) for step in scene["enrich"]["steps"]} >= {
        (2, "car, a parked yellow taxi", "llm")
    }
    written = {path.name for path in (tmp_path / "out" / scene["picture"].removesuffix(".png")).iterdir()}
    assert written == {"0-generate.png", "1-person.png", "1-car.png", "2-person.png", "2-car.png"}


def test_huggingface_datasets_replaces_in_workers(tmp_path):
    write_folder(tmp_path / "images", 6)
    out = run("huggingface_datasets.py", tmp_path / "images", "--cache", tmp_path / "cache", "--size", 32)
    assert out.startswith("6 images: ")
    assert "(6, 3, 32, 32) ['ball', 'ball', 'ball', 'cup', 'cup', 'cup']" in out
    assert "'misses': 0" in out


def test_detection_moves_boxes_with_their_objects(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        image, matte = scene(number)
        PIL.Image.fromarray(image).save(root / "JPEGImages" / f"{number}.jpg", quality=95)
        left, top, right, bottom = PIL.Image.fromarray((matte > 127).astype("uint8")).getbbox()
        box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><size><width>{image.shape[1]}</width><height>{image.shape[0]}</height></size>"
            f"<object><name>sheep</name><bndbox>{box}</bndbox></object></annotation>"
        )
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{number}\n" for number in range(4)))
    out = run("detection.py", tmp_path, "--cache", tmp_path / "cache", "--workers", 1)
    assert "'hits': 4, 'misses': 0" in out
    assert "'unmoved': 0" in out
    assert out.count("[17]") == 4  # a sheep's label


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ultralytics") is None, reason="Ultralytics brings its own OpenCV: try it by hand")
def test_ultralytics_yolo_trains_on_the_composites(filled, tmp_path, monkeypatch):
    yolo(filled[1], tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    arguments = ("--cache", tmp_path / "cache", "--model", "yolo11n.yaml", "--epochs", 1, "--size", 64)
    run("ultralytics_yolo.py", tmp_path / "set", tmp_path / "new", *arguments, "--device", "cpu")
    assert list(tmp_path.glob("**/weights/last.pt"))


def test_medical_16bit_keeps_the_window(tmp_path):
    for path in write_folder(tmp_path / "images", 4):
        gray = np.asarray(PIL.Image.open(path).convert("L")).astype(np.uint16) * 16
        PIL.Image.fromarray(gray).save(path)
    out = run("medical_16bit.py", tmp_path / "images", "--cache", tmp_path / "cache", "--size", 32)
    assert out.startswith("4 images: ")
    assert "(4, 1, 32, 32)" in out
    assert "'misses': 0" in out


def test_segmentation_uses_the_masks_and_moves_them(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        image, matte = scene(number)
        PIL.Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        PIL.Image.fromarray((matte > 127).astype("uint8") * 3).save(tmp_path / "masks" / f"{number}.png")
    folders = (tmp_path / "images", tmp_path / "masks")
    out = run("segmentation.py", *folders, "--cache", tmp_path / "cache", "--size", 48)
    assert "4 images: 4 complete" in out
    assert "(4, 3, 48, 48) classes [0, 3]" in out
    assert "'misses': 0" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm_training.py", "lightning_training.py"])
def test_other_trainers_train(tmp_path, name):
    write_folder(tmp_path / "images", 4)
    out = run(name, tmp_path / "images", "--cache", tmp_path / "cache", "--epochs", 2)
    assert "4 images: " in out
    assert "loss " in out
    assert "'misses': 0" in out


def test_offline_site_trains_from_a_pack(tmp_path):
    write_folder(tmp_path / "images", 4)
    out = run("offline_site.py", tmp_path / "images", tmp_path / "pack", "--cache", tmp_path / "cache")
    assert "artifacts exported" in out
    assert "(4, 3, 64, 64)" in out
    assert "'misses': 0" in out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_run_by_a_test(path):
    assert path.name in Path(__file__).read_text()
