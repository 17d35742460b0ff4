"""The benchmarks' figures: what counts as met, and what as worse than before."""

import json

import pytest
from rich.console import Console

from benchmarks.timing import Figure, finish, in_turn, ratios, side_by_side


def test_a_figure_is_the_median_with_its_quartiles():
    figure = Figure.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (figure.low, figure.median, figure.high) == (1.5, 3.0, 4.5)
    assert Figure.of([2.0]).high == 2.0


@pytest.mark.parametrize(("goal", "more_is_better", "met"), [(3, False, True), (2, False, False), (3, True, True)])
def test_a_goal_is_met_from_the_right_side(goal, more_is_better, met):
    assert Figure.of([3.0, 3.0], goal, more_is_better).verdict().endswith("met") == met


def test_candidates_are_called_in_turn_with_every_item():
    calls = []
    found = in_turn({"a": lambda n: calls.append(("a", n)), "b": lambda n: calls.append(("b", n))}, 2, 3)
    assert calls == ([("a", 0), ("a", 1)] * 2 + [("b", 0), ("b", 1)] * 2) * 3
    assert [len(values) for values in found.values()] == [3, 3]
    assert ratios([4.0, 6.0], [2.0, 3.0]) == [2.0, 2.0]


def test_each_candidate_is_timed_beside_its_base():
    calls = []
    candidates = {name: lambda n, name=name: calls.append(name) for name in "ab"}
    milliseconds, beside = side_by_side(candidates, lambda n: calls.append("x"), 1, 5, passes=2)
    assert calls == list("xxxaaaxxxbbb") * 5
    assert [len(values) for values in (*milliseconds.values(), *beside.values())] == [5] * 4


def test_what_got_worse_than_an_older_run_is_told(tmp_path):
    old = {
        "slower": Figure(1.0, 0.9, 1.1),
        "within its spread": Figure(1.0, 0.9, 1.3),
        "quicker": Figure(1.0, 0.9, 1.1),
        "fewer a second": Figure(100.0, 95.0, 105.0, more_is_better=True),
        "of the machine": Figure(1.0, 0.9, 1.1, absolute=True),
        "gone": Figure(1.0, 1.0, 1.0),
    }
    new = {
        "slower": Figure(1.2, 1.1, 1.3),
        "within its spread": Figure(1.2, 1.1, 1.3),
        "quicker": Figure(0.5, 0.5, 0.5),
        "fewer a second": Figure(80.0, 75.0, 85.0, more_is_better=True),
        "of the machine": Figure(1.5, 1.4, 1.6, absolute=True),
        "new": Figure(9.0, 9.0, 9.0),
    }
    console = Console(record=True, width=200)
    finish(old, tmp_path / "old.json", None, console)
    assert not console.export_text()
    finish(new, tmp_path / "new.json", tmp_path / "old.json", console)
    told = console.export_text().splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["fewer a second", "slower"]
    assert "+20%" in told[1]
    assert json.loads((tmp_path / "new.json").read_text())["new"]["median"] == 9.0


def test_nothing_worse_is_said_too(tmp_path):
    figures = {"steady": Figure(1.0, 1.0, 1.0)}
    console = Console(record=True, width=200)
    finish(figures, tmp_path / "old.json", None, console)
    finish(figures, None, tmp_path / "old.json", console)
    assert "nothing is worse" in console.export_text()
