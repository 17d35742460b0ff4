"""Scenes from prompts: what is made, what is kept, what is said before the work, and what a wrong prompt file does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from augment import Cache, Recipe, prewarm, scenes
from augment.artifacts import SCENE, decode_image
from augment.errors import InputError, RecipeError, UnavailableError
from augment.keys import image_key, scene_key
from augment.prewarming.scene_plan import NEGATIVE
from augment.store.entries import entry_name
from augment.testing.pictures import scene, write_folder
from tests import enriching, simple

SIZE = (96, 112)
PROMPTS = ["a city street", "a wood in fog"]


def recipe(retries=3, depth=None, **generate):
    plain = simple.recipe(retries, generate=generate)
    return plain if depth is None else plain.changed({"enrich": enriching.SUBSTAGES | {"depth": depth}})


def make(prompts, cache=None, made_by=None, **options):
    simple.CALLS.clear()
    return scenes(prompts, cache, made_by or recipe(), **({"size": SIZE, "progress": False} | options))


def payloads(cache):
    return {one: bytes(cache.get(entry_name(SCENE.name, *one))) for one in cache.scenes()}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", codec="png")


def test_scenes_are_spread_over_the_prompts_and_have_their_keys(cache):
    report = make(PROMPTS, cache, count=5)
    assert (report.images, report.complete, report.failures) == (5, 5, [])
    assert str(report).startswith("5 scenes: 5 complete, 0 failures; ")
    found = payloads(cache)
    wanted = [(scene_key(PROMPTS[n % 2]), n // 2) for n in range(5)]
    assert sorted(one[1:] for one in found) == sorted(wanted)
    pictures = [decode_image(data) for data in found.values()]
    assert all(picture.shape == (*SIZE, 3) for picture in pictures)
    assert len({image_key(picture) for picture in pictures}) == 5
    assert cache.recipes() == []  # what training uses by default stays what it was


def test_a_scene_has_no_image_key():
    text = "a city street"
    assert scene_key(text) != scene_key(text + " ")
    pixels = np.frombuffer(text.encode().ljust(15), np.uint8).reshape(1, 5, 3)
    assert scene_key(text) != image_key(pixels)


def test_running_again_makes_only_what_is_missing_and_more_are_added(cache):
    make(PROMPTS, cache, recipe(depth=1), count=3)
    before = payloads(cache)
    report = make(PROMPTS, cache, recipe(depth=1), count=4)
    assert simple.CALLS["generate"] == 1
    assert {kind: (one.computed, one.found) for kind, one in report.stages.items()} == {
        "generate": (1, 3),
        "enrich": (1, 3),
    }
    assert before.items() < payloads(cache).items()
    assert make(PROMPTS, cache, recipe(depth=1), count=4).nbytes == 0
    assert not simple.CALLS


def test_the_same_prompt_gives_the_same_scene_in_any_company(cache, tmp_path):
    make(PROMPTS, cache, recipe(depth=2), count=4)
    other = Cache(tmp_path / "other", codec="png")
    make([PROMPTS[1]], other, recipe(depth=2))
    ((name, data),) = payloads(other).items()
    assert payloads(cache)[name] == data


def test_size_words_and_backends_make_other_scenes(cache):
    for n, (made_by, size) in enumerate(
        [(recipe(), SIZE), (recipe(), (112, 96)), (recipe(strength=50), SIZE), (recipe(depth=1), SIZE)], 1
    ):
        make(PROMPTS[:1], cache, made_by, size=size)
        assert len(payloads(cache)) == n
    # What comes before the generator of an image is no part of a scene.
    make(PROMPTS[:1], cache, recipe().changed({"remove.broken": 7}))
    assert not simple.CALLS


def test_the_generator_gets_the_prompt_with_the_words_of_the_recipe(cache):
    make(PROMPTS[:1], cache)
    worded = recipe().changed(
        {"refine": {"backend": "templates", "prefix": "35 mm", "suffix": "wide shot", "negative": "cars"}}
    )
    notes = [cache.provenance(entry_name(SCENE.name, *one))["prompt"] for one in cache.scenes()]
    assert [(note["prompt"], note["negative"]) for note in notes] == [(PROMPTS[0], NEGATIVE)]
    make(PROMPTS[:1], cache, worded)
    notes = [cache.provenance(entry_name(SCENE.name, *one))["prompt"] for one in cache.scenes()]
    assert {(note["prompt"], note["negative"]) for note in notes} == {(f"35 mm, {PROMPTS[0]}, wide shot", "cars")}


def test_what_is_rejected_is_made_again_with_the_next_seed_and_fails_in_the_end(cache):
    report = make(PROMPTS, cache, recipe(12, reject_odd=True), count=8)
    assert report.complete == 8
    assert report.stages["generate"].rejected["odd"] > 0
    with pytest.raises(UnavailableError, match="rejected 3 times, at last because it is black"):
        make(PROMPTS, cache, recipe(2, black=True), count=8)
    report = make(PROMPTS, cache, recipe(2, fail_even=True), count=8)
    assert 0 < len(report.failures) < 8
    assert report.complete + len(report.failures) == 8
    assert str(report.failures[0]) in {
        f"{prompt} (variant {n}): generate: an even seed" for prompt in PROMPTS for n in range(4)
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generate": {"backend": "resynthesis"}}, "'resynthesis' needs mattes, and a scene is made from its prompt"),
        ({"generate": {"backend": "around"}}, "'around' needs images and mattes, and"),
        ({"generate": {"backend": "img2img"}}, "'img2img' starts from a plate, and"),
        ({"generate": {"backend": "folder", "folder": "."}}, "'folder' does not read prompts, and"),
    ],
)
def test_a_generator_that_needs_an_image_is_refused_before_any_work(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=f"generate.backend: {message}.*name a text-to-image generator"):
        make(PROMPTS, tmp_path / "cache", recipe().changed(settings))
    assert Cache(tmp_path / "cache").names() == []


def test_what_a_stage_lacks_is_said_before_any_work_and_only_of_stages_that_are_used(cache):
    unused = {"remove": {"backend": "onnx", "model": "nowhere.onnx"}}
    assert make(PROMPTS, cache, recipe().changed(unused)).complete == 2
    with pytest.raises(UnavailableError, match="no server answers there|httpcore is not installed"):
        make(PROMPTS, cache, recipe().changed({"generate": {"backend": "webui", "base_url": "http://127.0.0.1:9"}}))


def test_depth_adds_and_removes_rounds(cache):
    report = make(PROMPTS, cache, recipe().changed({"enrich": enriching.SUBSTAGES}), depth=2, output=cache.directory)
    assert list(report.stages) == ["generate", "enrich"]
    trace = json.loads((cache.directory / "trace.json").read_text())
    assert {step["round"] for step in trace["scenes"][0]["enrich"]["steps"]} == {1, 2}
    assert list(make(PROMPTS, cache, recipe(depth=1), depth=0).stages) == ["generate"]
    assert list(make(PROMPTS, cache, recipe(), depth=0).stages) == ["generate"]
    with pytest.raises(RecipeError, match="enrich.depth: input should be less than or equal to 5"):
        make(PROMPTS, cache, recipe(depth=1), depth=6)


def test_a_guard_looks_for_the_class_that_it_names_and_otherwise_is_said_to_be_idle(cache):
    guard = {"backend": "own-class", "detector": {"backend": "fixed-detector", "labels": ["cup"], "half": True}}
    report = make(PROMPTS, cache, recipe().changed({"guard": guard}), count=8)
    assert report.remarks == ["guard is not used: scenes have no class of their own; name one as guard.group"]
    assert report.complete == 8
    guarded = recipe(12).changed({"guard": guard | {"group": "cup"}})
    report = make(PROMPTS, cache, guarded, count=8)
    assert (report.complete, report.remarks) == (8, [])
    assert report.stages["generate"].rejected["showing cup"] > 0
    assert len(cache.scenes()) == 16


# Pictures


def test_pictures_of_every_step_and_a_trace(tmp_path):
    report = make(PROMPTS, None, recipe(depth=2), output=tmp_path / "out", count=3)
    assert report.complete == 3
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert Recipe.from_dict(trace["recipe"]).generate == recipe().generate
    names = [one["picture"] for one in trace["scenes"]]
    assert names == ["000-a-city-street.png", "001-a-wood-in-fog.png", "002-a-city-street.png"]
    for one in trace["scenes"]:
        steps = one["enrich"]["steps"]
        assert [step["round"] for step in steps] == [1, 1, 1, 2, 2, 2]
        folder = tmp_path / "out" / one["picture"].removesuffix(".png")
        assert {path.stem for path in folder.iterdir()} == {"0-generate", *(step["step"] for step in steps)}
        assert one["generate"]["seed"] != one["enrich"]["seed"]
        with PIL.Image.open(tmp_path / "out" / one["picture"]) as picture:
            assert picture.size == (112, 96)
            last = np.asarray(picture)
        # Steps are kept as JPEG, and the scene itself without loss.
        assert np.abs(np.asarray(PIL.Image.open(folder / f"{steps[-1]['step']}.png")).astype(int) - last).mean() < 12
    assert len(Cache(tmp_path / "out" / "cache").scenes()) == 3


def test_pictures_of_scenes_that_were_made_without_them(cache, tmp_path):
    make(PROMPTS, cache, recipe(depth=1))
    before = payloads(cache)
    make(PROMPTS, cache, recipe(depth=1), output=tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("1-car.png"))) == 2
    assert payloads(cache) == before
    make(PROMPTS, cache, recipe(depth=1), output=tmp_path / "out")
    assert not simple.CALLS


# Wrong use


def test_a_file_of_prompts(cache, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(f"\ufeff# places\n\n{PROMPTS[0]}\n   \n{PROMPTS[1]} \r\n{PROMPTS[0]}\n", encoding="utf-8")
    for given in (file, str(file)):
        report = make(given, cache)
        assert report.complete == 2
        assert report.remarks == ["1 prompts say the same as an earlier one and count once with it"]
    assert {one.key for one in cache.scenes()} == set(map(scene_key, PROMPTS))
    report = make(file, cache, count=1)
    assert "1 scenes for 2 prompts: the last 1 have none" in report.remarks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "prompts.txt: no prompt in it; write one a line"),
        (b"\n  \n# only a comment\n", "prompts.txt: no prompt in it"),
        (b"\x89PNG\r\n\x1a\n\0\0", "prompts.txt: it is not a text file in UTF-8"),
        ("a street".encode("utf-16"), "prompts.txt: it is not a text file in UTF-8"),
        ("a street".encode("utf-16-le"), "prompts.txt: 'a.*' holds control characters"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(cache, tmp_path, content, message):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        make(tmp_path / "prompts.txt", cache)


def test_what_is_no_prompt_is_refused(cache, tmp_path):
    for given, message in [
        ("", "prompts: no prompt in it"),
        ([], "prompts: no prompt in it"),
        ([" ", "\n"], "prompts: no prompt in it"),
        (["a street", 3], "prompts: 3 is not text"),
        ("promts.txt", "promts.txt: there is no such file"),
        (tmp_path / "gone.txt", "gone.txt: it cannot be read: No such file"),
        (str(tmp_path), "it is a folder"),
        ("a street\x07", "holds control characters"),
    ]:
        with pytest.raises(InputError, match=message):
            make(given, cache)
    assert make("x" * 300 + " a very long prompt, 3.5 m wide", cache).complete == 1


def test_arguments_that_cannot_work_are_named(cache, tmp_path):
    (tmp_path / "file").write_text("")
    for options, message in [
        ({"cache": None}, "name a cache that they join .--cache., a folder for pictures"),
        ({"count": 0}, "count: 0 is not a number of scenes"),
        ({"size": (4, 96)}, "size: .4, 96. is not a height and a width"),
        ({"output": tmp_path / "file"}, "output: .*file cannot be written"),
        ({"output": "/proc/scenes"}, "output: /proc/scenes cannot be written"),
    ]:
        with pytest.raises(InputError, match=message):
            make(PROMPTS, **({"cache": cache} | options))
    assert not simple.CALLS


# Room and kills


def test_scenes_make_no_room_for_themselves_and_say_how_many_do_not_fit(tmp_path):
    folder = tmp_path / "cache"
    prewarm([PIL.Image.fromarray(scene(n)[0]) for n in range(4)], folder, recipe(), workers=0, progress=False)
    images = set(Cache(folder).names())
    cache = Cache(folder, codec="raw", size_limit=Cache(folder).nbytes() + 800_000)
    report = make(PROMPTS, cache, recipe(depth=1), count=40, output=tmp_path / "out")
    assert images <= set(cache.names())
    assert cache.nbytes() <= cache.size_limit
    assert 4 < report.complete < 40
    assert (report.complete + report.unfit, report.failures) == (40, [])
    assert "do not fit within the cache's size limit" in str(report)
    assert len(cache.scenes()) == report.complete
    assert len(list((tmp_path / "out").glob("*.png"))) == report.complete
    again = make(PROMPTS, cache, recipe(depth=1), count=40, output=tmp_path / "out")
    assert again.complete >= report.complete
    assert simple.CALLS["generate"] <= 10 < again.unfit


def test_a_prewarm_evicts_other_images_and_keeps_the_scenes(tmp_path):
    cache = Cache(tmp_path / "cache", codec="raw")
    make(PROMPTS, cache, count=6)
    old = [PIL.Image.fromarray(scene(n)[0]) for n in range(6)]
    prewarm(old, cache, recipe(), workers=0, progress=False)
    cache.checkpoint()
    limited = Cache(tmp_path / "cache", size_limit=cache.nbytes() + 20_000)
    new = [PIL.Image.fromarray(scene(n)[0]) for n in range(10, 14)]
    assert prewarm(new, limited, recipe(), workers=0, progress=False).complete == 4
    assert len(payloads(limited)) == 6
    keys = {name.split("/")[2] for name in limited.names()}
    assert any(image_key(image) not in keys for image in old)


def test_scenes_go_last_if_nothing_says_what_is_needed(tmp_path):
    cache = Cache(tmp_path / "cache", size_limit=700_000)
    name = entry_name(SCENE.name, "a" * 16, "b" * 32, 0)
    cache.put(name, bytes(50_000), {})
    for n in range(20):
        cache.put(f"matte/f1/{n:032x}", bytes(50_000), {})
    assert cache.get(name) is not None
    assert len(cache.names()) < 15


KILLED = """
import sys, time
from tests.prewarming.test_scenes import PROMPTS, recipe
from tests import simple
import augment
made = simple.NoiseGenerator.__call__
def slow(self, *, prompts, plates, seeds, **_):
    time.sleep(0.1)
    return made(self, prompts=prompts, plates=plates, seeds=seeds)
simple.NoiseGenerator.__call__ = slow
augment.scenes(PROMPTS, sys.argv[1], recipe(batch_size=1), count=30, size=(96, 112), progress=False)
"""


def test_a_run_that_is_killed_is_taken_up_where_it_ended(tmp_path):
    folder = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
    while not folder.is_dir() or sum(name.startswith("scene/") for name in Cache(folder).names()) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = sum(name.startswith("scene/") for name in Cache(folder).names())
    assert 4 <= there < 30
    report = make(PROMPTS, folder, recipe(batch_size=1), count=30)
    assert (report.complete, simple.CALLS["generate"]) == (30, 30 - there)
    assert len(Cache(folder).scenes()) == 30


def test_images_and_scenes_of_a_cache_do_not_get_in_each_others_way(cache, tmp_path):
    make(PROMPTS, cache, count=3)
    paths = write_folder(tmp_path / "images", 2)
    assert prewarm(paths, cache, recipe(), workers=0, progress=False).complete == 2
    before = payloads(cache)
    assert make(PROMPTS, cache, count=3).nbytes == 0
    assert (payloads(cache), len(before)) == (before, 3)
    assert len(cache.pool(cache.recipes()[0])) == 2
