"""Prewarming: every kind of source and of bad input, and interruptions at any time."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder

from augment import Cache, prewarm
from augment.chain import Chain
from augment.errors import InputError, StoreError, UnavailableError
from augment.keys import image_key
from augment.prewarming import Interrupted
from augment.testing.pictures import scene, write_folder
from tests import simple
from tests.simple import CALLS, GENERATE, REMOVE


def fill(images, cache, recipe=None, **arguments):
    return prewarm(images, cache, recipe or simple.recipe(), **({"workers": 0, "progress": False} | arguments))


def groups_in(cache):
    """The group stored with each matte, by file name."""
    found = [cache.provenance(name) for name in cache.names() if name.startswith("matte/")]
    return {os.path.basename(p["source"]): p["group"] for p in found}


def test_a_folder_of_classes_is_completed_and_its_subfolders_become_groups(tmp_path):
    write_folder(tmp_path / "images", 6)
    report = fill(tmp_path / "images", tmp_path / "cache", variants=2)
    assert (report.images, report.complete, report.failures) == (6, 6, [])
    assert {kind: stage.computed for kind, stage in report.stages.items()} == {
        "remove": 6,
        "inpaint": 6,
        "caption": 6,
        "refine": 12,
        "generate": 12,
    }
    groups = groups_in(Cache(tmp_path / "cache"))
    assert groups == {f"{n:03}.png": ("ball" if n % 2 else "cup") for n in range(6)}


def test_a_second_run_computes_nothing(tmp_path):
    write_folder(tmp_path / "images", 4)
    fill(tmp_path / "images", tmp_path / "cache")
    CALLS.clear()
    report = fill(tmp_path / "images", tmp_path / "cache")
    assert not CALLS
    assert report.complete == 4
    assert [stage.found for stage in report.stages.values()] == [4] * 5
    assert report.nbytes == 0


def test_more_variants_compute_only_the_new_ones(tmp_path):
    write_folder(tmp_path / "images", 3)
    fill(tmp_path / "images", tmp_path / "cache")
    CALLS.clear()
    fill(tmp_path / "images", tmp_path / "cache", variants=3)
    assert CALLS == {"refine": 6, "generate": 6}


def test_workers_and_batches_do_not_change_the_result(tmp_path):
    write_folder(tmp_path / "images", 5)
    contents = []
    for workers, size in ((0, 1), (2, 4)):
        cache = Cache(tmp_path / f"cache {workers}", codec="raw")
        fill(tmp_path / "images", cache, simple.recipe(generate={"batch_size": size}), workers=workers, variants=2)
        contents.append({name: bytes(cache.get(name)) for name in cache.names()})
    assert contents[0] == contents[1]


def test_the_same_image_twice_is_computed_once(tmp_path):
    paths = write_folder(tmp_path / "images", 2)
    (tmp_path / "images" / "copy.png").write_bytes(paths[0].read_bytes())
    report = fill(tmp_path / "images", tmp_path / "cache")
    assert (report.images, CALLS["remove"]) == (2, 2)


def test_a_list_of_paths_takes_groups_by_position(tmp_path):
    paths = write_folder(tmp_path / "images", 2)
    fill([paths[0], str(paths[1])], tmp_path / "cache", groups=["a", None])
    assert groups_in(Cache(tmp_path / "cache")) == {paths[0].name: "a", paths[1].name: None}
    with pytest.raises(InputError, match="groups: got 1 for 2 images"):
        fill(paths, tmp_path / "cache", groups=["a"])


def test_images_of_an_imagefolder_are_found_by_their_own_pixels(tmp_path):
    write_folder(tmp_path / "images", 4)
    dataset = ImageFolder(tmp_path / "images")
    cache = Cache(tmp_path / "cache")
    fill(dataset, cache)
    chain = Chain(simple.recipe(), cache)
    assert all(chain.artifact(GENERATE, image_key(image), 0) is not None for image, _ in dataset)
    assert set(groups_in(cache).values()) == {"ball", "cup"}


class Samples:
    """A map-style Dataset of the given items."""

    def __init__(self, items, **attributes):
        self.items = items
        self.__dict__ |= attributes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    "form",
    [
        lambda image, matte: image,
        lambda image, matte: (PIL.Image.fromarray(image), 1),
        lambda image, matte: [torch.from_numpy(image).permute(2, 0, 1), {"boxes": torch.zeros(0, 4)}],
        lambda image, matte: {"image": image, "label": 0},
    ],
)
def test_a_dataset_may_have_any_usual_form_of_item(tmp_path, form):
    items = [form(*scene(seed)) for seed in range(3)]
    assert fill(Samples(items), tmp_path / "cache").complete == 3


def test_class_names_of_a_dataset_become_groups(tmp_path):
    dataset = Samples([(scene(0)[0], 1), (scene(1)[0], 0)], classes=["cup", "ball"])
    fill(dataset, tmp_path / "cache")
    assert groups_in(Cache(tmp_path / "cache")) == {"item 0": "ball", "item 1": "cup"}


@pytest.mark.parametrize(
    "form",
    [
        lambda image, mask: (image, tv_tensors.Mask(torch.from_numpy(mask))),
        lambda image, mask: (image, {"masks": torch.from_numpy(np.stack([mask, mask * 0]))}),
        lambda image, mask: {"image": image, "mask": mask},
    ],
)
def test_a_datasets_own_masks_can_be_the_mattes(tmp_path, form):
    recipe = simple.recipe().changed({"remove.backend": "masks"})
    image, matte = scene(0)
    mask = (matte > 127).astype(np.uint8)
    cache = Cache(tmp_path / "cache")
    fill(Samples([form(image, mask)]), cache, recipe)
    found = Chain(recipe, cache).artifact(REMOVE, image_key(image))
    np.testing.assert_array_equal(found.uncropped() > 0, mask > 0)


def test_an_image_with_exif_orientation_is_prewarmed_rotated_and_unrotated(tmp_path):
    image = PIL.Image.fromarray(scene(0)[0])
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif, quality=95)
    cache = Cache(tmp_path / "cache")
    report = fill([path], cache)
    assert report.images == 2
    chain = Chain(simple.recipe(), cache)
    as_torchvision = np.asarray(PIL.Image.open(path))
    as_opencv = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert as_torchvision.shape[:2] == as_opencv.shape[1::-1]
    for pixels in (as_torchvision, as_opencv):
        assert chain.artifact(GENERATE, image_key(pixels), 0).shape == pixels.shape


def test_a_bad_file_is_listed_with_its_reason_and_does_not_stop_the_run(tmp_path):
    paths = write_folder(tmp_path, 3)
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    jpeg = io.BytesIO()
    PIL.Image.fromarray(scene(5)[0]).save(jpeg, "jpeg")
    (tmp_path / "cut.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    report = fill(tmp_path, tmp_path.with_name("cache"), workers=2)
    assert report.complete == len(paths)
    reasons = {os.path.basename(failure.source): (failure.stage, failure.reason) for failure in report.failures}
    assert reasons["text.jpg"] == ("decode", "PIL cannot read it as an image")
    assert reasons["empty.png"] == ("decode", "the file is empty")
    assert reasons["cut.jpg"][1].startswith("OSError: image file is truncated")
    assert reasons["dangling.png"] == ("decode", "there is no such file")
    assert all(name in str(report) for name in reasons)


def test_a_dataset_that_raises_for_an_item_loses_only_that_item(tmp_path):
    class Broken(Samples):
        def __getitem__(self, index):
            if index == 1:
                raise RuntimeError("no luck")
            return super().__getitem__(index)

    report = fill(Broken([scene(seed)[0] for seed in range(3)]), tmp_path / "cache")
    assert report.complete == 2
    assert [str(failure) for failure in report.failures] == ["item 1: decode: RuntimeError: no luck"]


def test_a_failed_item_is_skipped_by_later_stages_and_retried_in_the_next_run(tmp_path):
    paths = write_folder(tmp_path / "images", 4)
    recipe = simple.recipe(generate={"black": True}, retries=0)
    report = fill(paths, tmp_path / "cache", recipe)
    assert [failure.stage for failure in report.failures] == ["generate"] * 4
    assert (report.complete, report.stages["generate"].rejected) == (0, {"black": 4})
    assert "4 rejected as black" in str(report)
    CALLS.clear()
    fill(paths, tmp_path / "cache", recipe)
    assert CALLS == {"generate": 4}


def test_unusable_mattes_are_counted_by_reason(tmp_path):
    gray = [np.full((30, 40 + n, 3), 100, np.uint8) for n in range(2)]
    report = fill(Samples([*gray, scene(0)[0]]), tmp_path / "cache")
    assert (report.unusable, report.complete) == ({"empty": 2}, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere", "nowhere: there is no such folder"),
        (".", "no images in it or its subfolders"),
        ([], "images: the source is empty"),
        (iter([1]), "list_iterator is not a folder"),
        (5, "int is not a folder"),
    ],
)
def test_a_source_without_images_raises_immediately(tmp_path, monkeypatch, images, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        fill(images, tmp_path / "cache")


@pytest.mark.parametrize("argument", [{"variants": 0}, {"workers": -1}])
def test_an_invalid_argument_is_named(tmp_path, argument):
    with pytest.raises(InputError, match=next(iter(argument))):
        fill([tmp_path], tmp_path / "cache", **argument)


def test_missing_weights_are_reported_before_any_work(tmp_path, monkeypatch):
    def check(self):
        raise UnavailableError("no weights")

    monkeypatch.setattr(simple.NoiseGenerator, "check", check)
    with pytest.raises(UnavailableError, match="no weights"):
        fill(write_folder(tmp_path / "images", 1), tmp_path / "cache")
    assert not CALLS


def test_a_full_disk_ends_the_run_and_finished_work_is_kept(tmp_path, monkeypatch):
    paths = write_folder(tmp_path / "images", 4)
    put, room = Cache.put, iter(range(9))

    def full(self, *arguments):
        if next(room, None) is None:
            raise StoreError("cannot write: No space left on device")
        return put(self, *arguments)

    monkeypatch.setattr(Cache, "put", full)
    with pytest.raises(StoreError, match="No space left"):
        fill(paths, tmp_path / "cache")
    monkeypatch.undo()
    CALLS.clear()
    assert len(Cache(tmp_path / "cache").names()) == 9
    assert fill(paths, tmp_path / "cache").complete == 4
    assert sum(CALLS.values()) == 4 * 5 - 9


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
@pytest.mark.parametrize("size", ["600k", "3m"])
def test_a_real_full_disk_is_reported_in_one_line(tmp_path, size):
    write_folder(tmp_path / "images", 30)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(StoreError, match=r"^cannot (open|write to) the cache .* full") as caught:
            fill(tmp_path / "images", disk / "cache", workers=2, variants=20)
        assert "\n" not in str(caught.value)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_each_stage_is_unloaded_before_the_next_one_runs(tmp_path, monkeypatch):
    log = []
    for kind, stage in simple.STAGES.items():

        def call(self, kind=kind, before=stage.__call__, **given):
            log.append(f"run {kind}")
            return before(self, **given)

        monkeypatch.setattr(stage, "__call__", call)
        monkeypatch.setattr(stage, "unload", lambda self, kind=kind: log.append(f"unload {kind}"))
    fill(write_folder(tmp_path / "images", 1), tmp_path / "cache")
    assert log == [f"{step} {kind}" for kind in simple.STAGES for step in ("run", "unload")]


RUN = """
import os, sys, time
from tests import simple
from augment import prewarm
from augment.prewarming import Interrupted

def slow(self, *arguments, before=simple.NoiseGenerator._one):
    time.sleep(0.02)
    return before(self, *arguments)

simple.NoiseGenerator._one = slow
try:
    report = prewarm(sys.argv[1], sys.argv[2], simple.recipe(generate={"batch_size": 2}), variants=2, workers=2)
except Interrupted as interrupted:
    report = interrupted.report
    print("INTERRUPTED")
print(report)
print(dict(simple.CALLS))
"""


def start(tmp_path, **arguments):
    command = [sys.executable, "-c", RUN, str(tmp_path / "images"), str(tmp_path / "cache")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **arguments)


def wait_for(cache_folder, count):
    """Wait until the cache holds that many entries."""
    for _ in range(600):
        if (cache_folder / "entries").is_dir() and len(Cache(cache_folder).names()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was computed within half a minute")


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_a_random_time_continues_where_it_stopped(tmp_path, seed):
    count = 20
    write_folder(tmp_path / "images", count)
    whole = count * 7
    entries = random.Random(seed).randrange(1, whole - 10)
    process = start(tmp_path)
    wait_for(tmp_path / "cache", entries)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = Cache(tmp_path / "cache")
    before = {name: bytes(kept.get(name)) for name in kept.names()}
    report = fill(tmp_path / "images", tmp_path / "cache", simple.recipe(generate={"batch_size": 2}), variants=2)
    assert report.complete == count
    assert sum(CALLS.values()) == whole - len(before)
    assert {name: bytes(kept.get(name)) for name in before} == before


def test_no_worker_outlives_a_killed_prewarm(tmp_path):
    write_folder(tmp_path / "images", 40)
    process = start(tmp_path)
    wait_for(tmp_path / "cache", 1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # returns when the last process that holds its pipes has ended
    assert process.returncode == -signal.SIGKILL


def test_ctrl_c_finishes_the_current_batch_and_reports_finished_work(tmp_path):
    write_folder(tmp_path / "images", 20)
    process = start(tmp_path, start_new_session=True)
    wait_for(tmp_path / "cache", 85)
    os.killpg(process.pid, signal.SIGINT)  # like a terminal, it signals the workers too
    out, err = process.communicate(timeout=60)
    assert out.startswith("INTERRUPTED\n20 images: ")
    assert "Traceback" not in err
    calls = json.loads(out.splitlines()[-1].replace("'", '"'))
    assert sum(calls.values()) == len(Cache(tmp_path / "cache").names()) < 140
    assert re.search(r"(refine|generate): \d+/40", err), "plain lines if standard error is not a terminal"


def test_interrupted_is_a_keyboard_interrupt_with_the_report():
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert Interrupted("report").report == "report"


def test_two_simultaneous_prewarms_of_one_folder_both_finish(tmp_path):
    write_folder(tmp_path / "images", 6)
    processes = [start(tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("6 images: 6 complete" in out for out, _ in outputs)
