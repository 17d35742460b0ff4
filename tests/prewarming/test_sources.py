"""Other people's folders, files and Datasets: what is taken, what is said, and what never ends the run."""

import json
import os
import socket
import struct

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, random_split
from torchvision.datasets import ImageFolder

from augment import Cache, prewarm
from augment.chain import Chain
from augment.errors import InputError
from augment.imaging.pillow import oriented
from augment.keys import image_key, to_rgb
from augment.testing.pictures import scene, write_folder
from augment.torchvision import ImageLoader, ReplaceBackground
from tests import simple
from tests.simple import GENERATE


def fill(images, cache, recipe=None, **arguments):
    return prewarm(images, cache, recipe or simple.recipe(), **({"workers": 0, "progress": False} | arguments))


def groups_of(cache):
    record = cache.recipes()[-1]
    return sorted(str(entry.group) for entry in cache.pool(record).entries().values())


# Metadata, names, sizes.


def with_exif(path, orientation, damage):
    """A JPEG with an orientation, whose EXIF has an entry that Pillow cannot read or write again."""
    entry = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    broken = {
        "rational": struct.pack("<HHI", 0x11A, 2, 3) + b"72\0\0",
        "far offset": struct.pack("<HHII", 0x9286, 7, 999999, 999999),
        "odd type": struct.pack("<HHII", 0x010F, 99, 1, 0),
    }[damage]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entry + broken + b"\0" * 4
    PIL.Image.fromarray(scene(1)[0]).save(path, quality=95, exif=exif)


@pytest.mark.filterwarnings("ignore::UserWarning")  # by Pillow, for the test's own look at the file
@pytest.mark.parametrize("damage", ["rational", "far offset", "odd type"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_damaged_exif_does_not_lose_the_picture(tmp_path, damage, orientation):
    with_exif(tmp_path / "a.jpg", orientation, damage)
    report = fill(tmp_path, tmp_path.with_name("cache"))
    assert report.failures == []
    assert report.complete == (1 if orientation == 1 else 2)
    pixels = np.asarray(PIL.Image.open(tmp_path / "a.jpg").convert("RGB"))
    chain = Chain(simple.recipe(), Cache(tmp_path.with_name("cache")))
    assert chain.artifact(GENERATE, image_key(pixels), 0) is not None
    assert chain.artifact(GENERATE, image_key(oriented(pixels, orientation)), 0) is not None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_turns_pixels_as_pillow_does(orientation, tmp_path):
    image = PIL.Image.fromarray(scene(2)[0])
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    with PIL.Image.open(tmp_path / "a.png") as file:
        expected = np.asarray(PIL.ImageOps.exif_transpose(file))
    np.testing.assert_array_equal(oriented(scene(2)[0], orientation), expected)


def test_a_name_that_is_not_utf8_is_done_printed_and_reported(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    PIL.Image.fromarray(scene(0)[0]).save(os.fsencode(tmp_path) + b"/caf\xe9.png")
    (tmp_path / os.fsdecode(b"bad\xff.png")).write_bytes(b"no image")
    report = fill(tmp_path, tmp_path.with_name("cache"), workers=1)
    assert report.complete == 1
    str(report).encode()
    report.save(tmp_path / "report.csv")
    assert "bad?" in (tmp_path / "report.csv").read_text() or "bad\ufffd" in (tmp_path / "report.csv").read_text()
    replace = ReplaceBackground(tmp_path.with_name("cache"), p=1)
    key = Cache(tmp_path.with_name("cache")).keys_at(str(tmp_path / name))
    assert len(key) == 1
    assert replace.counts["misses"] == 0


def test_an_image_too_wide_for_a_jpeg_fails_by_itself(tmp_path):
    PIL.Image.fromarray(scene(2)[0]).save(tmp_path / "a.png")
    wide = np.full((40, 70_000, 3), (90, 120, 60), np.uint8)
    wide[:, 30_000:30_200] = (220, 40, 30)
    PIL.Image.fromarray(wide).save(tmp_path / "b.png")
    report = fill(tmp_path, tmp_path.with_name("cache"))
    assert (report.images, report.complete) == (2, 1)
    (failure,) = report.failures
    assert failure.source.endswith("b.png")
    assert "cannot be kept" in failure.reason


@pytest.mark.parametrize("result", [None, "", "   ", 3, "\ud800"])
def test_a_stage_that_returns_nonsense_fails_its_item_only(tmp_path, monkeypatch, result):
    def captions(self, *, plates):
        return [result if plate.shape[1] == 90 else "a plate" for plate in plates]

    monkeypatch.setattr(simple.SizeCaptioner, "__call__", captions)
    report = fill([scene(0)[0], scene(1, (96, 90))[0]], tmp_path / "cache")
    assert report.complete == 1
    assert [failure.stage for failure in report.failures] == ["caption"]


# Folders.


def test_pipes_sockets_and_links_in_loops_neither_block_nor_repeat(tmp_path):
    images = tmp_path / "images"
    write_folder(images, 2)
    os.mkfifo(images / "pipe.jpg")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(images / "socket.png"))
    (images / "cup" / "loop").symlink_to(images)
    (images / "ball" / "other").symlink_to(images / "cup")
    (images / "self").symlink_to("self")
    report = fill(images, tmp_path / "cache", workers=1)
    server.close()
    assert (report.images, report.complete, report.failures) == (2, 2, [])
    assert report.passed_over == {".jpg": 1, ".png": 1, "no extension": 1}


def test_a_pipe_that_is_named_is_a_failure(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    PIL.Image.fromarray(scene(0)[0]).save(tmp_path / "a.png")
    report = fill([tmp_path / "pipe.jpg", tmp_path / "a.png"], tmp_path / "cache")
    assert report.complete == 1
    assert [failure.reason for failure in report.failures] == ["it is not a regular file"]


@pytest.mark.parametrize("extension", [".gif", ".jfif", ".jp2", ".tga", ".avif", ".webp", ".tiff", ".BMP"])
def test_what_pillow_reads_is_taken(tmp_path, extension):
    form = {".jfif": "jpeg", ".jp2": "jpeg2000"}.get(extension)
    PIL.Image.fromarray(scene(0)[0]).save(tmp_path / f"a{extension}", form)
    report = fill(tmp_path, tmp_path.with_name("cache"))
    assert report.images == 1
    assert not report.failures


def test_files_of_other_kinds_are_counted_in_one_line(tmp_path):
    write_folder(tmp_path / "images", 1)
    for name in ("a.heic", "b.heic", "labels.txt"):
        (tmp_path / "images" / name).write_text("x")
    assert "passed over: 2 .heic, 1 .txt" in str(fill(tmp_path / "images", tmp_path / "cache"))


def test_a_csv_table_names_images_and_groups(tmp_path):
    paths = write_folder(tmp_path / "images", 3)
    rows = [f"images/{path.relative_to(tmp_path / 'images')},kind {n}" for n, path in enumerate(paths)]
    (tmp_path / "table.csv").write_text("path,group\n" + "\n".join(rows) + "\n")
    fill(tmp_path / "table.csv", tmp_path / "cache")
    assert groups_of(Cache(tmp_path / "cache")) == ["kind 0", "kind 1", "kind 2"]
    fill(tmp_path / "images", tmp_path / "other", groups=tmp_path / "table.csv")
    assert groups_of(Cache(tmp_path / "other")) == ["kind 0", "kind 1", "kind 2"]
    (tmp_path / "bad.csv").write_text("name,kind\na,b\n")
    with pytest.raises(InputError, match="no column of paths"):
        fill(tmp_path / "bad.csv", tmp_path / "cache")


def test_an_array_of_paths_is_a_list_of_paths(tmp_path):
    paths = write_folder(tmp_path / "images", 2)
    assert fill(np.array([str(path) for path in paths]), tmp_path / "cache").complete == 2


# Datasets.


@pytest.mark.parametrize("column", ["img", "pixel_values", "picture"])
def test_the_only_image_of_a_dict_is_taken(tmp_path, column):
    items = [{column: PIL.Image.fromarray(scene(n)[0]), "label": n, "boxes": torch.zeros(1, 4)} for n in range(2)]
    assert fill(items, tmp_path / "cache").complete == 2


def test_several_images_of_a_dict_are_named(tmp_path):
    items = [{"left": PIL.Image.fromarray(scene(0)[0]), "right": PIL.Image.fromarray(scene(1)[0])}]
    (failure,) = fill(items, tmp_path / "cache").failures
    assert "2 of its columns are images (left, right)" in failure.reason


@pytest.mark.parametrize(
    "part",
    [
        lambda full: Subset(full, [3, 0, 1, 2]),
        lambda full: ConcatDataset([Subset(full, [0, 1]), Subset(full, [2, 3])]),
        lambda full: random_split(full, [1.0], torch.Generator().manual_seed(0))[0],
        lambda full: Subset(ConcatDataset([full]), range(4)),
    ],
)
def test_groups_and_paths_are_found_through_subsets(tmp_path, part):
    write_folder(tmp_path / "images", 4)
    cache = Cache(tmp_path / "cache")
    full = ImageFolder(tmp_path / "images")
    fill(part(full), cache)
    assert groups_of(cache) == ["ball", "ball", "cup", "cup"]
    assert all(cache.keys_at(path) for path, _ in full.samples)


@pytest.mark.parametrize("label", [np.int64, np.uint8, torch.tensor, lambda n: torch.tensor(n, dtype=torch.int16)])
def test_labels_of_numpy_and_torch_count(tmp_path, label):
    class Labeled(list):
        classes = ("cup", "ball")

    cache = Cache(tmp_path / "cache")
    fill(Labeled((scene(n)[0], label(n)) for n in range(2)), cache)
    assert groups_of(cache) == ["ball", "cup"]


def test_a_picture_in_two_classes_is_named(tmp_path):
    paths = write_folder(tmp_path / "images", 2)
    copy = tmp_path / "images" / "cup" / "copy.png"
    copy.write_bytes(next(path for path in paths if path.parent.name == "ball").read_bytes())
    report = fill(tmp_path / "images", tmp_path / "cache")
    assert len(report.duplicates) == 1
    assert "are the same picture" in str(report)
    assert all(word in report.duplicates[0] for word in ("copy.png", "(ball)", "(cup)"))


# What the report says.


def test_refused_images_are_named_with_their_reasons(tmp_path):
    gray = [np.full((30, 40 + n, 3), 100, np.uint8) for n in range(12)]
    report = fill([*gray, scene(0)[0]], tmp_path / "cache")
    assert len(report.refused) == 12
    assert str(report).count("empty: no pixel is object") == 10
    assert "and 2 more" in str(report)
    report.save(tmp_path / "report.json")
    items = json.loads((tmp_path / "report.json").read_text())["items"]
    assert len(items) == 12
    assert {item["outcome"] for item in items} == {"unusable"}
    with pytest.raises(InputError, match="a report is a .csv or a .json file"):
        report.save(tmp_path / "report.txt")


def test_missing_says_why_there_is_nothing_to_do(tmp_path):
    paths = write_folder(tmp_path / "images", 2)
    fill(paths, tmp_path / "cache")
    with pytest.raises(InputError, match="no misses"):
        fill(paths, tmp_path / "cache", missing=True)
    ReplaceBackground(tmp_path / "cache", p=1)(PIL.Image.fromarray(scene(50)[0]))
    report = fill(paths, tmp_path / "cache", missing=True)
    assert "none of these images is among the 1 that training did not find" in str(report)


# Pixels of more than eight bits.


def sixteen_bits(path, top, seed=0):
    """A 16-bit grayscale file of a bright object; `top` is its brightest value."""
    image, matte = scene(seed)
    values = np.where(matte > 127, top, image.mean(2) / 255 * top * 0.3).astype(np.uint16)
    cv2.imwrite(str(path), values)


def test_twelve_bit_data_is_said_to_come_out_black_and_a_window_mends_it(tmp_path):
    folder = tmp_path / "images" / "cell"
    folder.mkdir(parents=True)
    for n in range(2):
        sixteen_bits(folder / f"{n}.png", 4095, n)
    assert "2 images come out nearly black" in str(fill(tmp_path / "images", tmp_path / "cache"))
    recipe = simple.recipe().changed({"remove.backend": "grabcut", "remove.doubt": 0.0})
    report = fill(tmp_path / "images", tmp_path / "cache", recipe, window=(0, 4095))
    assert not any("nearly" in note for note in report.notes)
    assert "ImageFolder clips to white" in str(report)
    assert report.complete == 2
    replace = ReplaceBackground(tmp_path / "cache", p=1, recipe=recipe)
    for image, _ in ImageFolder(tmp_path / "images", loader=ImageLoader((0, 4095))):
        assert replace(image) is not image
    assert replace.counts["hits"] == 2


def test_the_loader_gives_the_pixels_that_prewarm_sees(tmp_path):
    sixteen_bits(tmp_path / "a.png", 60_000)
    loaded = ImageLoader()(tmp_path / "a.png")
    assert loaded.mode == "RGB"
    with PIL.Image.open(tmp_path / "a.png") as file:
        np.testing.assert_array_equal(np.asarray(loaded), to_rgb(file))


def test_files_that_opencv_decodes_to_other_colors_are_said(tmp_path):
    PIL.Image.fromarray(scene(0)[0]).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert "1 images are CMYK, which OpenCV decodes to other colors" in str(fill(tmp_path, tmp_path.with_name("cache")))


@pytest.mark.parametrize("values", [(0, 255), (-2, 2), (float("nan"), 1)])
def test_floats_that_are_no_image_are_refused(values):
    image = np.full((4, 5, 3), values[0], np.float32)
    image[0] = values[1]
    for form in (image, torch.from_numpy(image).permute(2, 0, 1)):
        with pytest.raises(InputError, match="a float image is 0 … 1"):
            to_rgb(form)
    assert to_rgb(np.array([[[-0.1, 0.5, 1.1]]], np.float32)).tolist() == [[[0, 127, 255]]]
