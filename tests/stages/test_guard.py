"""The guard: no accepted background shows the object's own class, and every rejection is counted."""

import logging

import numpy as np
import pytest

from augment import Cache, Recipe, prewarm
from augment.artifacts import Rejected, decode_image
from augment.chain import Chain
from augment.errors import RecipeError
from augment.keys import image_key
from augment.models.mask_rcnn import COCO
from augment.stages.base import Item
from augment.stages.coco import SYNONYMS, equivalents
from augment.stages.guard.own_class import OwnClass
from augment.testing.pictures import scene, write_folder
from tests import enriching, simple
from tests.enriching import SetDetector


@pytest.fixture(autouse=True)
def _no_calls_so_far():
    enriching.forget()


def guarded(labels=("cup",), half=True, **settings):
    """The simple recipe with a guard whose detector finds these labels."""
    return simple.recipe(retries=12, guard=OwnClass(detector=SetDetector(labels, half), **settings))


COCO_CLASSES = tuple(SYNONYMS)


@pytest.mark.parametrize(
    ("group", "found_as"),
    [
        ("dog", {"dog"}),
        ("Dogs", {"dog"}),
        ("golden_retriever", {"dog"}),
        ("hot dog", {"hot dog"}),
        ("men", {"person"}),
        ("people", {"person"}),
        ("mug", {"cup"}),
        ("sports car", {"car"}),
        ("fire-engine", {"truck"}),
        ("kite", {"kite", "bird"}),  # two meanings
        ("n02099601", set()),
        ("7", set()),
        ("pipette", set()),
        (None, set()),
    ],
)
def test_a_class_is_found_under_its_name_among_cocos(group, found_as):
    assert set(equivalents(group, COCO_CLASSES)) == found_as


def test_the_table_has_cocos_80_classes():
    from torchvision.models import get_weight

    categories = get_weight(COCO).meta["categories"]
    assert set(SYNONYMS) == {name for name in categories if name not in ("N/A", "__background__")}


def test_a_detector_with_its_own_classes_is_asked_for_those():
    assert equivalents("corroded valve", ("valve", "pipe")) == ("valve",)
    assert equivalents("golden_retriever", ("cat", "bird")) == ()


def test_the_recipe_adds_to_the_table_and_overrides_it():
    extra = {"n02084071": ["dog"], "Pipette": ["bottle"], "dog": []}
    assert equivalents("n02084071", COCO_CLASSES, extra) == ("dog",)
    assert equivalents("n0209", COCO_CLASSES, extra) == equivalents(None, COCO_CLASSES, extra) == ()
    assert equivalents("pipette", COCO_CLASSES, extra) == ("bottle",)
    assert equivalents("dog", COCO_CLASSES, extra) == ()


def test_only_what_the_image_is_of_is_a_reason_to_reject():
    guard = OwnClass(detector=SetDetector(("dog", "car")))
    image = np.zeros((96, 112, 3), np.uint8)
    assert guard(backgrounds=[image] * 3, groups=["puppy", "cup", "taxi"]) == [
        Rejected("showing dog", ("dog",)),
        None,
        Rejected("showing car", ("car",)),
    ]


def test_a_class_that_cannot_be_checked_passes_with_one_warning(caplog):
    guard = OwnClass(detector=SetDetector())
    image = np.zeros((96, 112, 3), np.uint8)
    with caplog.at_level(logging.WARNING):
        assert guard(backgrounds=[image] * 4, groups=["pipette", "pipette", None, None]) == [None] * 4
    assert not enriching.CALLS, "nothing to look for, so nothing is detected"
    first, second = [record.getMessage() for record in caplog.records]
    assert "the class 'pipette'" in first
    assert "guard.equivalents" in first
    assert "images without a class" in second


def test_a_dataset_of_one_class_names_it_in_the_recipe():
    guard = OwnClass(group="dog", detector=SetDetector(("dog",)))
    image = np.zeros((96, 112, 3), np.uint8)
    assert guard(backgrounds=[image] * 2, groups=[None, "cup"])[0] == Rejected("showing dog", ("dog",))
    assert guard.account("cup") == ("cup",)


def test_no_accepted_background_shows_the_class_and_the_summary_counts_the_rejected(tmp_path):
    write_folder(tmp_path / "images", 10, ("cup",))
    cache = Cache(tmp_path / "cache", codec="png")
    recipe = guarded()
    report = prewarm(tmp_path / "images", cache, recipe, variants=2, workers=0, progress=False)
    assert (report.complete, report.failures) == (10, [])
    rejected = report.stages["generate"].rejected["showing cup"]
    assert rejected > 3
    assert f"{rejected} rejected as showing cup" in str(report)
    names = [name for name in cache.names() if name.startswith("background/")]
    assert len(names) == 20
    detect = recipe.guard.detector
    assert all(detect(images=[decode_image(cache.get(name))]) == [[]] for name in names)
    accounts = [cache.provenance(name) for name in names]
    assert all(account["guard"] == ["cup"] for account in accounts)
    assert sum(len(account["rejected"]) for account in accounts) == rejected
    assert all(account["attempt"] == len(account["rejected"]) for account in accounts)


def test_another_try_names_the_class_in_its_negative_prompt(tmp_path, monkeypatch):
    negatives = []
    before = simple.NoiseGenerator.__call__

    def call(self, *, prompts, plates, seeds, **_):
        negatives.extend(prompt.negative for prompt in prompts)
        return before(self, prompts=prompts, plates=plates, seeds=seeds)

    monkeypatch.setattr(simple.NoiseGenerator, "__call__", call)
    image = scene(0)[0]
    recipe = guarded(half=False).changed({"retries": 2})
    outcome = Chain(recipe, Cache(tmp_path)).complete(Item(image, image_key(image), "a.png", "mug"))
    assert negatives == ["no mug", "cup, no mug", "cup, no mug"]
    assert outcome.rejected == {"showing cup": 3}
    assert [reason for _, reason in outcome.failed] == ["rejected 3 times, at last because it is showing cup"]


def test_the_guard_is_part_of_the_fingerprint_and_its_device_is_not():
    plain = simple.recipe()
    recipe = plain.changed({"guard.backend": "own-class"})
    assert recipe.fingerprints()["refine"] == plain.fingerprints()["refine"]
    assert recipe.fingerprints()["generate"] != plain.fingerprints()["generate"]
    assert recipe.changed({"guard.detector.score": 0.3}).fingerprints()["generate"] != recipe.fingerprints()["generate"]
    assert (
        recipe.changed({"guard.equivalents": {"mug": ["cup"]}}).fingerprints()["generate"]
        != recipe.fingerprints()["generate"]
    )
    assert (
        recipe.changed({"guard.detector.device": "cpu"}).fingerprints()["generate"] == recipe.fingerprints()["generate"]
    )


def test_a_guard_survives_toml_and_its_errors_name_the_field():
    recipe = simple.recipe().changed({"guard.group": "dog", "guard.equivalents": {"mug": ["cup"]}})
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    with pytest.raises(RecipeError, match=r"guard\.detector\.score: .*\(got 2\)"):
        recipe.changed({"guard.detector.score": 2})
    with pytest.raises(RecipeError, match=r"guard\.detector\.backend: 'yolo' is not one of mask-rcnn"):
        recipe.changed({"guard.detector.backend": "yolo"})


def test_an_equivalent_that_the_detector_does_not_know_is_said_before_any_work(tmp_path):
    write_folder(tmp_path / "images", 1)
    with pytest.raises(RecipeError, match=r"guard\.equivalents\.mug: cupp not among the detector's classes: person"):
        prewarm(tmp_path / "images", tmp_path / "cache", guarded(equivalents={"mug": ("cup", "cupp")}))


def test_a_detector_that_breaks_fails_the_item_and_accepts_nothing(tmp_path, monkeypatch):
    def broken(self, *, images):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(SetDetector, "__call__", broken)
    image = scene(0)[0]
    chain = Chain(guarded(), Cache(tmp_path))
    outcome = chain.complete(Item(image, image_key(image), "a.png", "cup"))
    assert [reason for _, reason in outcome.failed] == ["RuntimeError: out of luck"]
    assert chain.artifact(simple.GENERATE, image_key(image), 0) is None


def test_the_detector_is_freed_with_the_generator(tmp_path, monkeypatch):
    unloaded = []
    monkeypatch.setattr(SetDetector, "unload", lambda self: unloaded.append("detector"))
    write_folder(tmp_path / "images", 1, ("cup",))
    prewarm(tmp_path / "images", tmp_path / "cache", guarded(), workers=2, progress=False)
    assert unloaded == ["detector"]
