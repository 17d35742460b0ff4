"""The chain computes what is missing, keeps what it made, and leaves a failure with its item."""

import numpy as np
import pytest

from augment import Cache
from augment.artifacts import decode_image
from augment.chain import Chain
from augment.errors import StoreError, UnavailableError
from augment.keys import image_key
from augment.stages.base import Item
from augment.stages.calling import Work
from augment.stages.generate import flaw
from augment.testing.pictures import scene
from tests import simple
from tests.simple import CALLS, GENERATE, INPAINT, REFINE, REMOVE


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", codec="png")


def item(seed=0, group="ball"):
    image = scene(seed)[0]
    return Item(image, image_key(image), f"{seed}.png", group)


def test_every_stage_runs_once_and_never_again(cache):
    chain = Chain(simple.recipe(), cache)
    assert chain.complete(item(), variants=2).computed == 7  # matte, plate, caption, two prompts and two backgrounds
    assert CALLS == {"remove": 1, "inpaint": 1, "caption": 1, "refine": 2, "generate": 2}
    assert chain.complete(item(), variants=2).computed == 0
    assert chain.complete(item(), variants=3).computed == 2
    assert CALLS == {"remove": 1, "inpaint": 1, "caption": 1, "refine": 3, "generate": 3}


def test_changing_the_generator_keeps_everything_before_it(cache):
    Chain(simple.recipe(), cache).complete(item())
    CALLS.clear()
    assert Chain(simple.recipe(generate={"strength": 41}), cache).complete(item()).computed == 1
    assert CALLS == {"generate": 1}


def test_how_a_stage_is_run_changes_nothing(cache):
    Chain(simple.recipe(), cache).complete(item())
    assert Chain(simple.recipe(generate={"batch_size": 1}), cache).complete(item()).computed == 0


def test_same_recipe_image_and_variant_give_the_same_bytes_in_any_batch(tmp_path):
    keys = [item(seed).key for seed in range(5)]
    pixels = []
    for number, batch in enumerate((1, 5)):
        cache = Cache(tmp_path / str(number))
        chain = Chain(simple.recipe(), cache)
        for kind in chain.kinds:
            works = [Work(item(s), 0 if kind.per_variant else None) for s in range(5)]
            for start in range(0, 5, batch):
                chain.run(kind, works[start : start + batch])
        pixels.append([bytes(cache.get(chain.name(GENERATE, key, 0))) for key in keys])
    assert pixels[0] == pixels[1]
    assert len(set(pixels[0])) == 5


def test_variants_differ(cache):
    chain = Chain(simple.recipe(), cache)
    chain.complete(item(), variants=3)
    assert len({chain.artifact(GENERATE, item().key, variant).tobytes() for variant in range(3)}) == 3


def test_an_entry_knows_where_it_came_from(cache):
    chain = Chain(simple.recipe(generate={"strength": 30}), cache)
    chain.complete(item())
    found = cache.provenance(chain.name(GENERATE, item().key, 0))
    assert found["recipe"] == "simple"
    assert found["backend"] == "noise"
    assert found["version"] == 1
    assert found["settings"]["strength"] == 30
    assert found["source"] == "0.png"
    assert found["group"] == "ball"
    assert found["prompt"]["negative"] == "no ball"
    assert found["seed"] > 0
    assert found["seconds"] > 0
    assert cache.provenance(chain.name(REFINE, item().key, 0))["caption"] == "a plate of 112 by 96"


def test_an_unusable_matte_ends_the_chain_for_that_image(cache):
    grey = np.full((40, 50, 3), 120, np.uint8)
    chain = Chain(simple.recipe(), cache)
    chain.complete(Item(grey, image_key(grey)))
    assert chain.artifact(REMOVE, image_key(grey)).unusable.startswith("empty")
    assert CALLS == {"remove": 1}


def test_a_rejected_background_is_made_again_with_the_next_seed(cache):
    chain = Chain(simple.recipe(generate={"reject_odd": True}, retries=20), cache)
    outcomes = [chain.complete(item(seed)) for seed in range(6)]
    assert not any(outcome.failed for outcome in outcomes)
    assert sum(outcome.rejected["odd"] for outcome in outcomes) > 0
    for seed in range(6):
        found = cache.provenance(chain.name(GENERATE, item(seed).key, 0))
        assert found["seed"] % 2 == 0
        assert found["attempt"] == outcomes[seed].rejected["odd"]


def test_what_is_rejected_every_time_has_failed_with_its_reason(cache):
    chain = Chain(simple.recipe(generate={"black": True}, retries=2), cache)
    outcome = chain.complete(item())
    assert CALLS["generate"] == 3
    assert outcome.rejected == {"black": 3}
    assert [reason for _, reason in outcome.failed] == ["rejected 3 times, at last because it is black"]
    assert chain.artifact(GENERATE, item().key, 0) is None


def test_one_bad_item_does_not_take_its_batch_along(cache):
    chain = Chain(simple.recipe(remove={"broken": 90}), cache)
    narrow = scene(1, (96, 90))[0]
    items = [item(0), Item(narrow, image_key(narrow), "1.png"), item(2)]
    outcome = chain.run(REMOVE, [Work(i) for i in items])
    assert outcome.computed == 2
    assert [(work.item.source, reason) for work, reason in outcome.failed] == [
        ("1.png", "ValueError: this image breaks its batch")
    ]


def test_a_stage_that_returns_a_failure_in_an_items_place_fails_that_item_alone(cache):
    chain = Chain(simple.recipe(generate={"fail_even": True}), cache)
    outcomes = [chain.complete(item(seed)) for seed in range(8)]
    failed = [outcome.failed[0][1] for outcome in outcomes if outcome.failed]
    assert 0 < len(failed) < 8
    assert set(failed) == {"an even seed"}


@pytest.mark.parametrize("error", [UnavailableError, StoreError])
def test_what_every_item_would_meet_ends_the_work(cache, monkeypatch, error):
    def broken(*_, **__):
        raise error("gone")

    monkeypatch.setattr(simple.SizeCaptioner, "__call__", broken)
    with pytest.raises(error, match="gone"):
        Chain(simple.recipe(), cache).complete(item())


def test_a_damaged_entry_is_computed_again(cache):
    chain = Chain(simple.recipe(), cache)
    chain.complete(item())
    name = chain.name(INPAINT, item().key)
    before = bytes(cache.get(name))
    cache._open().set(name, b"torn")
    assert chain.missing(INPAINT, item().key, 1) == [None]
    chain.complete(item())
    assert bytes(cache.get(name)) == before


def test_the_plate_keeps_what_was_visible(cache):
    chain = Chain(simple.recipe(), cache)
    one = item()
    chain.complete(one)
    plate = decode_image(cache.get(chain.name(INPAINT, one.key)))
    outside = ~chain.artifact(REMOVE, one.key).hole(0.06)
    assert np.abs(plate.astype(int) - one.image)[outside].mean() < 4  # JPEG's own loss


@pytest.mark.parametrize(
    ("background", "reason"),
    [
        (np.zeros((8, 8, 3), np.uint8), "black"),
        (np.full((8, 8, 3), 90, np.uint8), "of one color"),
        (np.zeros((8, 9, 3), np.uint8), r"(8, 9, 3) uint8 and not (8, 8, 3) uint8"),
        (np.full((8, 8, 3), np.nan), r"(8, 8, 3) float64 and not (8, 8, 3) uint8"),
        (np.arange(192, dtype=np.uint8).reshape(8, 8, 3), None),
    ],
)
def test_a_background_that_cannot_serve_is_named(background, reason):
    assert flaw(background, (8, 8, 3)) == reason
