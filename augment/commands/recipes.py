"""`augment recipes`: what the recipes consist of, and what they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from augment.models.known import Known, known, speed
from augment.recipe import Recipe, presets


@dataclass(frozen=True)
class Summary:
    """A recipe in short: its backends by kind, and its models with what is known of each (None: nothing)."""

    name: str
    backends: dict[str, str]
    models: dict[str, Known | None]

    @property
    def download(self) -> float:
        """GB of all its models."""
        return sum(model.download for model in self.models.values() if model)

    @property
    def memory(self) -> float:
        """GB that its largest model takes: one is loaded at a time."""
        return max((model.memory for model in self.models.values() if model), default=0.0)


def summaries() -> list[Summary]:
    """All recipes that come with the library."""
    return [summarize(Recipe.load(name)) for name in presets()]


def summarize(recipe: Recipe) -> Summary:
    """What a recipe takes."""
    backends = {kind: stage.backend for kind, stage in recipe.makers.items()}
    return Summary(recipe.name, backends, {model: known(model) for model in models_of(recipe)})


def models_of(recipe: Recipe) -> list[str]:
    """The models that a recipe runs on this machine; a server's are its own."""
    stages = [stage for stage in recipe.all_stages.values() if not hasattr(stage, "base_url")]
    return list(dict.fromkeys(str(model) for stage in stages if (model := getattr(stage, "model", None))))


def as_tables(recipes: Sequence[Summary]) -> Iterator[Table]:
    """The recipes, and the models that they name, for a terminal."""
    table = Table(
        "recipe", Column("stages", overflow="fold"), "download", "memory", "time per image", box=None, pad_edge=False
    )
    for one in recipes:
        download = (
            f"{one.download:.1f} GB"
            if one.download >= 0.1
            else f"{1000 * one.download:.0f} MB"
            if one.download
            else "none"
        )
        memory = f"{one.memory:.0f} GB" if one.memory >= 1 else ""
        table.add_row(one.name, " → ".join(one.backends.values()), download, memory, speed(one.name) or "not measured")
    yield table
    models = {model: entry for one in recipes for model, entry in one.models.items()}
    table = Table(
        Column("model", overflow="fold"), "license", Column("commercial use", overflow="fold"), box=None, pad_edge=False
    )
    for model, entry in models.items():
        table.add_row(model, entry.license if entry else "unknown", entry.commercial if entry else "look it up")
    yield table
