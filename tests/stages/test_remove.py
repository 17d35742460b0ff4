"""GrabCut's mattes and its doubts, and the dataset's own masks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from augment.artifacts import Matte
from augment.errors import ItemFailed, UnavailableError
from augment.stages.base import Item
from augment.stages.remove.grabcut import GrabCut
from augment.stages.remove.masks import Masks
from augment.testing.pictures import scene
from augment.testing.scenes import scenes
from benchmarks.mattes import run


def overlap(matte: Matte, true: np.ndarray) -> float:
    found, true = matte.uncropped() >= 128, true >= 128
    return float((found & true).sum() / (found | true).sum())


def masks(stage: Masks, *sources: str | None, mask: np.ndarray | None = None) -> list[Matte | ItemFailed]:
    count = len(sources)
    return stage(images=[IMAGE] * count, masks=[mask] * count, sources=sources)


@pytest.mark.parametrize("seed", range(3))
def test_grabcut_finds_an_object_that_stands_out(seed: int) -> None:
    image, true = scene(seed, (288, 336))
    (matte,) = GrabCut()(images=[image])
    assert matte.unusable is None
    assert overlap(matte, true) > 0.95


def test_grabcut_draws_a_soft_edge_where_the_true_one_is() -> None:
    image, true = scene(1, (480, 560))
    (matte,) = GrabCut()(images=[image])
    alpha = matte.uncropped()
    soft = (alpha > 0) & (alpha < 255)
    near = cv2.dilate(true, np.ones((25, 25), np.uint8)) != cv2.erode(true, np.ones((25, 25), np.uint8))
    assert soft.any()
    assert not (soft & ~near).any()
    assert np.abs(alpha[near].astype(int) - true[near]).mean() < 0.06 * 255


def test_grabcut_keeps_an_object_that_the_lower_edge_cuts_off() -> None:
    image, true = scene(0, (288, 336))
    rows = slice(0, 150)  # through the disc
    (matte,) = GrabCut()(images=[image[rows]])
    assert matte.unusable is None
    assert overlap(matte, true[rows]) > 0.95


@pytest.mark.parametrize("kind", ["noise", "stripes"])
def test_grabcut_doubts_an_image_without_an_object(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    image = noise if kind == "noise" else np.repeat(noise[:, :1], 300, axis=1)
    (matte,) = GrabCut()(images=[image])
    assert matte.unusable is not None
    assert matte.unusable.startswith(("doubtful: ", "empty: ", "full: "))


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (40, 40), (20, 900)])
def test_grabcut_finds_a_constant_image_unusable_whatever_its_shape(shape: tuple[int, int]) -> None:
    (matte,) = GrabCut()(images=[np.full((*shape, 3), 90, np.uint8)])
    assert matte.size == shape
    assert matte.unusable is not None


def test_grabcut_gives_the_same_matte_in_any_batch_and_any_thread() -> None:
    images = [scene(seed)[0] for seed in range(4)]
    alone = [GrabCut()(images=[image])[0].to_bytes() for image in images]
    cv2.setRNGSeed(12345)
    together = [matte.to_bytes() for matte in GrabCut()(images=images[::-1])][::-1]
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(lambda image: GrabCut()(images=[image])[0].to_bytes(), images * 3))
    assert together == alone
    assert threads == alone * 3


def test_a_higher_doubt_marks_more_mattes_unusable_and_changes_no_pixel() -> None:
    image, _ = scene(0)
    (sure,), (doubted,) = GrabCut(doubt=0.0)(images=[image]), GrabCut(doubt=1.0)(images=[image])
    assert sure.unusable is None
    assert doubted.unusable is not None
    assert "confidence" in doubted.unusable
    assert np.array_equal(sure.uncropped(), doubted.uncropped())


def test_accepted_mattes_of_photographs_are_good(stamps: Path, wallpapers: Path) -> None:
    result, _ = run("grabcut", GrabCut(), list(scenes(24, size=320, seed=3)))
    assert result.accepted.count >= 0.4 * result.every.count
    assert result.accepted.median_overlap >= 0.85
    assert result.accepted.poor <= result.every.poor


def test_scenes_are_the_same_for_the_same_seed(stamps: Path, wallpapers: Path) -> None:
    one, same, other = (list(scenes(3, size=64, seed=seed)) for seed in (5, 5, 6))
    assert all(
        np.array_equal(a.image, b.image) and np.array_equal(a.alpha, b.alpha) for a, b in zip(one, same, strict=True)
    )
    assert [made.name for made in one] != [made.name for made in other]


IMAGE = np.zeros((6, 8, 3), np.uint8)
LABELS = np.zeros((6, 8), np.uint8)
LABELS[2:4, 3:6] = 1
LABELS[4, 4] = 7


def write(path: Path, labels: np.ndarray, mode: str | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(labels)
    (picture.convert(mode) if mode else picture).save(path)
    return str(path)


def test_a_sample_s_own_mask_becomes_the_matte_exactly() -> None:
    (matte,) = masks(Masks(), None, mask=LABELS)
    assert isinstance(matte, Matte)
    assert matte.unusable is None
    assert matte.confidence == 1
    assert np.array_equal(matte.uncropped(), np.where(LABELS > 0, 255, 0))


def test_values_choose_the_labels_that_are_object() -> None:
    (matte,) = masks(Masks(values=(7,)), None, mask=LABELS)
    assert isinstance(matte, Matte)
    assert np.array_equal(matte.uncropped(), np.where(LABELS == 7, 255, 0))


def test_an_empty_mask_is_unusable() -> None:
    (matte,) = masks(Masks(values=(3,)), None, mask=LABELS)
    assert isinstance(matte, Matte)
    assert matte.unusable is not None
    assert matte.unusable.startswith("empty")


@pytest.mark.parametrize("where", ["1.png", "dog/1.png", "train/dog/1.gif", "dog/1.bmp", "1.tif"])
def test_a_mask_file_lies_at_the_image_s_path_below_the_folder(tmp_path: Path, where: str) -> None:
    write(tmp_path / "masks" / where, LABELS)
    (matte,) = masks(Masks(folder=str(tmp_path / "masks")), "photos/train/dog/1.jpg")
    assert isinstance(matte, Matte)
    assert np.array_equal(matte.uncropped(), np.where(LABELS > 0, 255, 0))


def test_the_file_of_the_image_s_own_class_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "1.png", 1 - np.minimum(LABELS, 1))
    write(tmp_path / "cat/1.png", 1 - np.minimum(LABELS, 1))
    write(tmp_path / "dog/1.png", LABELS)
    (matte,) = masks(Masks(folder=str(tmp_path)), "/data/dog/1.jpg")
    assert isinstance(matte, Matte)
    assert np.array_equal(matte.uncropped(), np.where(LABELS > 0, 255, 0))


def test_masks_beside_the_images_are_told_apart_by_their_suffix(tmp_path: Path) -> None:
    source = write(tmp_path / "dog/1.png", IMAGE)
    write(tmp_path / "dog/1_mask.png", LABELS)
    (without,) = masks(Masks(folder=str(tmp_path)), source)
    (matte,) = masks(Masks(folder=str(tmp_path), suffix="_mask"), source)
    assert isinstance(without, ItemFailed)
    assert isinstance(matte, Matte)
    assert matte.unusable is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1"])
def test_a_black_and_white_mask_may_be_saved_in_any_mode(tmp_path: Path, mode: str) -> None:
    write(tmp_path / "1.png", np.where(LABELS > 0, 255, 0).astype(np.uint8), mode)
    (matte,) = masks(Masks(folder=str(tmp_path)), "1.jpg")
    assert isinstance(matte, Matte)
    assert np.array_equal(matte.uncropped(), np.where(LABELS > 0, 255, 0))


def test_a_palette_mask_is_read_by_its_labels_and_not_its_colours(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(LABELS, mode=None).convert("L").convert("P")
    picture.putdata(LABELS.ravel().tolist())
    picture.putpalette([0, 0, 0] * 7 + [200, 10, 10])
    picture.save(tmp_path / "1.png")
    (matte,) = masks(Masks(folder=str(tmp_path), values=(7,)), "1.jpg")
    assert isinstance(matte, Matte)
    assert np.array_equal(matte.uncropped(), np.where(LABELS == 7, 255, 0))


def test_a_missing_mask_fails_its_item_alone_and_names_it(tmp_path: Path) -> None:
    write(tmp_path / "1.png", LABELS)
    found, missing = masks(Masks(folder=str(tmp_path)), "dog/1.jpg", "dog/2.jpg")
    assert isinstance(found, Matte)
    assert isinstance(missing, ItemFailed)
    assert "dog/2.jpg" in str(missing)
    assert "2.png" in str(missing)


def test_without_a_folder_an_item_without_a_mask_fails_and_is_told_of_the_setting() -> None:
    (failed,) = masks(Masks(), "dog/1.jpg")
    assert isinstance(failed, ItemFailed)
    assert "remove.folder" in str(failed)


def test_a_mask_of_another_size_fails_and_both_sizes_are_named(tmp_path: Path) -> None:
    write(tmp_path / "1.png", LABELS[:, :-1])
    (failed,) = masks(Masks(folder=str(tmp_path)), "dog/1.jpg")
    assert isinstance(failed, ItemFailed)
    assert "dog/1.jpg" in str(failed)
    assert "6x7" in str(failed)
    assert "6x8" in str(failed)


def test_a_mask_file_that_is_no_image_fails_its_item(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("not an image")
    (failed,) = masks(Masks(folder=str(tmp_path)), "1.jpg")
    assert isinstance(failed, ItemFailed)
    assert "1.png" in str(failed)


def test_a_masks_folder_that_is_not_there_ends_the_work(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"remove\.folder"):
        Masks(folder=str(tmp_path / "nowhere")).check()


def test_a_corrected_mask_changes_what_the_stage_reads_of_an_item(tmp_path: Path) -> None:
    stage = Masks(folder=str(tmp_path))
    item = Item(IMAGE, "0" * 32, "dog/1.jpg")
    assert stage.reads(item) == ""
    write(tmp_path / "1.png", LABELS)
    before = stage.reads(item)
    assert before == stage.reads(item) != ""
    write(tmp_path / "1.png", LABELS[::-1])
    assert stage.reads(item) != before
    own = [Item(IMAGE, "0" * 32, "dog/1.jpg", mask=mask) for mask in (LABELS, LABELS[::-1])]
    assert len({before, *map(stage.reads, own)}) == 3
    assert GrabCut().reads(own[0]) == ""
