"""`augment apply`: the composites as a data set on disk."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from filelock import FileLock
from torchvision.datasets import ImageFolder
from typer.testing import CliRunner

from augment import Placement
from augment.cli import app
from augment.commands.apply import run
from augment.errors import InputError, StoreError
from augment.store.open import open_store
from augment.store.packing import export_pack
from tests.commands.labeled import place, seen_box, yolo
from tests.filled import is_one_of, possible

MOVES = Placement(scale=(0.6, 1.0), translate="uniform", flip=0.5)


def apply(images, store, out, **settings):
    return run(images, store, out, workers=0, progress=False, **settings)


def rows(out):
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(out):
    """Every file that a user looks at, with its bytes."""
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def folder(filled, tmp_path):
    """An image folder with two classes, of scenes of the cache."""
    place(filled[1], tmp_path / "images", ["cup/0.png", "ball/1.png", "cup/2.png"])
    return tmp_path / "images"


def test_an_image_folder_comes_back_with_composites_beside_its_images(cache, folder, tmp_path):
    summary = apply(folder, cache, tmp_path / "out", copies=2, source="own")
    assert (summary.images, summary.composites, summary.kept, summary.failed) == (3, 6, {}, False)
    classes = ImageFolder(tmp_path / "out")
    assert classes.classes == ["ball", "cup"]
    assert [label for _, label in classes.samples] == [0] * 3 + [1] * 6
    for name in ("cup/0", "ball/1", "cup/2"):
        original = (folder / f"{name}.png").read_bytes()
        assert (tmp_path / "out" / f"{name}.png").read_bytes() == original
        made = [PIL.Image.open(tmp_path / "out" / f"{name}_bg{n}.png") for n in (1, 2)]
        expected = possible(cache, PIL.Image.open(folder / f"{name}.png").convert("RGB"))
        assert all(is_one_of(np.asarray(one), expected) for one in made)
        assert not np.array_equal(*made)
    assert [row["outcome"] for row in rows(tmp_path / "out")] == ["original", "composite", "composite"] * 3
    assert {row["background"] for row in rows(tmp_path / "out")[1:3]} == {"own"}
    assert {row["variant"] for row in rows(tmp_path / "out")[1:3]} <= {"0", "1", "2"}


def test_a_second_run_makes_nothing_and_changes_nothing_and_another_process_makes_the_same(cache, folder, tmp_path):
    apply(folder, cache, tmp_path / "out", copies=2, placement=MOVES)
    before, times = contents(tmp_path / "out"), [path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*_bg*")]
    assert apply(folder, cache, tmp_path / "out", copies=2, placement=MOVES).composites == 6
    assert contents(tmp_path / "out") == before
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*_bg*")] == times
    run(folder, cache, tmp_path / "again", copies=2, placement=MOVES, workers=2, progress=False)
    assert contents(tmp_path / "again") == before
    apply(folder, cache, tmp_path / "other", copies=2, placement=MOVES, seed=1)
    assert contents(tmp_path / "other") != before


def test_only_new_leaves_the_originals_out(cache, folder, tmp_path):
    apply(folder, cache, tmp_path / "out", only_new=True)
    assert set(contents(tmp_path / "out")) == {"cup/0_bg1.png", "ball/1_bg1.png", "cup/2_bg1.png", "manifest.csv"}


def test_images_without_composites_are_counted_with_their_reasons_and_not_multiplied(cache, folder, tmp_path):
    PIL.Image.effect_noise((112, 96), 90).convert("RGB").save(folder / "cup" / "unknown.png")
    (folder / "cup" / "broken.jpg").write_text("no image")
    PIL.Image.fromarray(np.zeros((96, 112), np.uint16)).save(folder / "cup" / "deep.png")
    frames = [PIL.Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    frames[0].save(folder / "cup" / "film.gif", save_all=True, append_images=frames[1:])
    (folder / "cup" / "2.json").write_text('{"shapes": []}')
    (folder / "cup" / "gone.png").symlink_to(folder / "nowhere.png")
    for suffix in ("png", "gif"):  # composites of GIF files are PNG files
        PIL.Image.new("RGB", (9, 9)).save(folder / "ball" / f"twin.{suffix}")
    os.mkfifo(folder / "cup" / "pipe.png")
    (folder / "LIESMICH.txt").write_bytes("für alle".encode("latin-1"))
    summary = apply(folder, cache, tmp_path / "out", copies=3, source="own")
    assert summary.failed
    assert {reason: len(images) for reason, images in summary.kept.items()} == {
        **{"misses": 1, "unreadable": 4, "doubtful": 3},
    }
    told = {row["source"]: row["detail"] for row in rows(tmp_path / "out") if row["detail"]}
    assert told.pop("cup/broken.jpg").startswith("cannot identify image file")
    assert "No such file" in told.pop("cup/gone.png")
    assert told.pop("ball/twin.gif") == told.pop("ball/twin.png") == "another image has its name with another extension"
    assert told == {
        "cup/deep.png": "it has more than 8 bits a channel, which composites have not",
        "cup/film.gif": "it holds several pictures",
        "cup/2.json".replace("json", "png"): "cup/2.json goes with it and is not understood",
    }
    assert "misses: the store lacks them; run `augment prewarm`" in str(summary)
    assert len(list((tmp_path / "out" / "cup").iterdir())) == 7 + 3
    plain = apply(folder, cache, tmp_path / "plain", form="imagefolder")
    assert len(plain.kept["doubtful"]) == 2


def test_an_image_has_no_two_composites_with_the_same_background(cache, folder, tmp_path):
    summary = apply(folder, cache, tmp_path / "out", copies=5, source="own")
    assert (summary.composites, list(summary.kept)) == (9, ["no further background"])
    assert "there are 3 for it" in str(summary)
    assert apply(folder, cache, tmp_path / "moved", copies=5, source="own", placement=MOVES).composites == 15


def test_images_for_validation_stay_as_they_are(cache, filled, tmp_path):
    names = ["train/test/0.png", "train/cup/1.png", "val/test/2.png", "val/cup/3.png"]
    place(filled[1], tmp_path / "images", names)  # a class may be called "test"
    summary = apply(tmp_path / "images", cache, tmp_path / "out", source="own")
    assert (summary.composites, summary.held_out) == (2, 2)
    assert set(contents(tmp_path / "out")) == {
        *names,
        *("train/test/0_bg1.png", "train/cup/1_bg1.png", "manifest.csv"),
    }


def test_files_keep_their_kind_and_their_transparency_and_orientation(cache, filled, tmp_path):
    place(filled[1], tmp_path / "images", ["0.png", "1.png", "2.png", "3.png"])
    with PIL.Image.open(tmp_path / "images" / "0.png") as file:
        file.convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=8).save(tmp_path / "images" / "palette.gif")
    with PIL.Image.open(tmp_path / "images" / "1.png") as file:
        with_alpha = file.convert("RGBA")
        with_alpha.putalpha(77)
        with_alpha.save(tmp_path / "images" / "1.webp", lossless=True)
    with PIL.Image.open(tmp_path / "images" / "2.png") as file:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        file.save(tmp_path / "images" / "turned.png", exif=exif)
    for name in ("1.png", "2.png"):
        (tmp_path / "images" / name).unlink()
    summary = apply(tmp_path / "images", cache, tmp_path / "out", source="own")
    assert {reason: len(images) for reason, images in summary.kept.items()} == {"misses": 1}  # the palette's colors
    with PIL.Image.open(tmp_path / "out" / "1_bg1.webp") as file:
        assert (file.mode, file.getchannel("A").getextrema()) == ("RGBA", (77, 77))
    with PIL.Image.open(tmp_path / "out" / "turned_bg1.png") as file:
        assert (file.size, file.getexif()[0x0112]) == ((112, 96), 6)


def test_a_pack_serves_as_well(cache, folder, tmp_path):
    export_pack(open_store(cache), tmp_path / "pack", None)
    apply(folder, tmp_path / "pack", tmp_path / "out")
    apply(folder, cache, tmp_path / "same")
    assert contents(tmp_path / "out") == contents(tmp_path / "same")


def test_killed_at_any_moment_it_goes_on_where_it_was(cache, filled, tmp_path):
    yolo(filled[1], tmp_path / "set")
    arguments = ["apply", str(tmp_path / "set"), "--cache", cache.location, "-o", str(tmp_path / "out")]
    arguments += ["--copies", "40", "--scale", "0.6", "1", "--translate", "uniform", "--flip", "0.5", "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "augment", *arguments], start_new_session=True)
    while len(list(tmp_path.glob("out/images/train/*_bg*.png"))) < 110:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    journal = (tmp_path / "out" / ".augment-apply.jsonl").read_bytes()
    assert 2 <= journal.count(b"\n") < 9
    finished = list(tmp_path.glob("out/images/train/0_bg*.png"))
    times = [path.stat().st_mtime_ns for path in finished]
    apply(tmp_path / "set", cache, tmp_path / "out", copies=40, placement=MOVES)
    assert [path.stat().st_mtime_ns for path in finished] == times
    apply(tmp_path / "set", cache, tmp_path / "whole", copies=40, placement=MOVES)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob("out/**/.*.tmp"))


def test_what_changed_or_is_gone_is_made_again(cache, filled, tmp_path):
    root = yolo(filled[1], tmp_path / "set")
    apply(root, cache, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "images" / "train" / "0_bg1.png").unlink()
    label = root / "labels" / "train" / "1.txt"
    label.write_text(label.read_text() + label.read_text())
    apply(root, cache, tmp_path / "out")
    after = contents(tmp_path / "out")
    changed = {"labels/train/1.txt", "labels/train/1_bg1.txt"}
    assert {name for name in after if after[name] != before[name]} == changed
    assert {after[name] for name in changed} == {label.read_bytes()}
    label.write_text("0 0.1 0.2\n")
    assert list(apply(root, cache, tmp_path / "out").kept) == ["labels not understood"]
    assert not (tmp_path / "out" / "images" / "train" / "1_bg1.png").exists()


def test_wrong_use_is_refused_in_one_line(cache, folder, tmp_path):
    apply(folder, cache, tmp_path / "out")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    refused = [
        (InputError, "there is no such folder", {"images": tmp_path / "none"}),
        (InputError, "copies: 0", {"copies": 0}),
        (InputError, "it is inside", {"out": folder / "out"}),
        (InputError, "is not empty", {"out": full}),
        (InputError, "filled with seed=0, not 1", {"seed": 1}),
        (InputError, "a file", {"images": folder / "cup" / "0.png"}),
        (InputError, "format: 'voc3' is not one of", {"form": "voc3"}),
        (InputError, "no labels of the format 'coco'", {"form": "coco", "out": tmp_path / "new"}),
        (InputError, "no images in it", {"images": full}),
        (InputError, "would have this name", {"images": tmp_path / "out", "out": tmp_path / "new"}),
        (InputError, "it cannot be written", {"out": full / "mine.txt"}),
        (StoreError, "is not a store", {"store": full}),
    ]
    for error, message, settings in refused:
        arguments = {"images": folder, "store": cache, "out": tmp_path / "out"} | settings
        with pytest.raises(error, match=message if message != "a file" else "there is no such folder"):
            apply(**arguments)
    with FileLock(tmp_path / "out" / ".augment-apply.lock"), pytest.raises(InputError, match="another `augment apply`"):
        apply(folder, cache, tmp_path / "out")


def test_labels_beside_the_folder_are_noticed(cache, filled, tmp_path):
    root = yolo(filled[1], tmp_path / "set")
    with pytest.raises(InputError, match=f"its labels seem to be in {root}/labels: give the folder of the whole data"):
        apply(root / "images", cache, tmp_path / "out")


def test_a_full_disk_ends_it_with_one_sentence(cache, folder, tmp_path):
    out = tmp_path / "out"
    apply(folder, cache, out)
    (out / "cup" / "0_bg1.png").unlink()
    (out / "cup" / ".0_bg1.png.tmp").symlink_to("/dev/full")
    with pytest.raises(InputError, match="out: it cannot be written: .*No space left on device"):
        run(folder, cache, out, workers=1, progress=False)


def test_the_command_says_what_came_of_it(cache, filled, tmp_path):
    root = yolo(filled[1], tmp_path / "set")
    arguments = ["apply", str(root), "--cache", cache.location, "-o", str(tmp_path / "out"), "--workers", "0"]
    result = CliRunner().invoke(app, [*arguments, "--copies", "2", "--scale", "0.6", "0.9"])
    assert result.exit_code == 0, result.output
    assert "8 images, 12 composites" in result.output
    assert "2 images for validation or test" in result.output
    left, _, right, _ = seen_box(tmp_path / "out" / "images" / "train" / "0_bg1.png")
    assert right - left < 45  # 48 pixels before
    (root / "images" / "train" / "0.png").write_bytes(b"")
    assert CliRunner().invoke(app, [*arguments, "--copies", "2", "--scale", "0.6", "0.9"]).exit_code == 1
