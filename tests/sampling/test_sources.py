"""Where backgrounds come from, as a value."""

import pickle

import pytest

from augment.artifacts import BACKGROUND, PLATE
from augment.errors import InputError
from augment.sampling.sources import Source, as_source


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("own", (BACKGROUND, None)),
        ("pool", (BACKGROUND, "any")),
        ("pool:same", (BACKGROUND, "same")),
        ("plates:own", (PLATE, None)),
        ("plates:pool:other", (PLATE, "other")),
    ],
)
def test_a_name_says_which_artifact_of_which_images(name, choice):
    assert Source(name).pick(0.5) == (name, *choice)


def test_weights_divide_what_is_drawn_and_nothing_of_weight_0_is():
    source = Source({"own": 1, "plates:pool": 0, "pool": 3})
    picked = [source.pick((n + 0.5) / 100) for n in range(100)]
    assert [picked.count((name, BACKGROUND, relation)) for name, relation in (("own", None), ("pool", "any"))] == [
        25,
        75,
    ]


def test_a_source_that_has_drawn_can_be_pickled_and_draws_the_same():
    source = Source({"own": 1, "plates:pool": 2}, flip=0.5)
    assert source.pick(0.9) == ("plates:pool", PLATE, "any")
    again = pickle.loads(pickle.dumps(source))
    assert again == source
    assert again.pick(0.9) == source.pick(0.9)


def test_its_text_is_as_short_as_what_was_given():
    assert str(as_source("pool")) == "pool"
    assert str(as_source({"own": 2})) == "{'own': 2}"
    assert str(Source("pool", flip=0.5)) == "Source(weights='pool', max_coverage=0.8, flip=0.5)"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("pools", "'pools' is not one of own, pool"),
        ({"own": -1}, "own: -1 is not a weight"),
        ({"own": "much"}, "own: 'much' is not a weight"),
        ({"own": 0}, "no weight is above 0"),
        ({}, "no weight is above 0"),
        (5, "5 is not a name"),
        ({"weights": "own", "flip": 2}, "flip: 2 is not within 0 … 1"),
        ({"weights": "own", "max_coverage": "all"}, "max_coverage: 'all'"),
    ],
)
def test_what_cannot_be_is_named(wrong, message):
    with pytest.raises(InputError, match=f"source: (.*){message}"):
        as_source(wrong)
