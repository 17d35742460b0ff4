"""The overhead of prewarming over its stages, in time and memory, and the time of a run over a complete cache.

`python -m benchmarks prewarm` compares `augment.prewarm` with the same stages called in a bare loop, with the same
batch size and without workers. Each runs in its own process, so that the peak memory is the process's. The complete
cache is filled with fast stages, because a run over a complete cache takes the same time whatever filled it.
"""

from __future__ import annotations

import json as jsonlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import PIL.Image
from rich.console import Console
from rich.table import Table

from augment.artifacts import Matte
from augment.chain import Chain
from augment.keys import image_key, to_rgb
from augment.prewarming import prewarm
from augment.recipe import Recipe
from augment.stages.base import SEED, Item, Kind, Stage, given_by_kind
from augment.stages.calling import Work
from augment.stages.caption import Captioner
from augment.stages.generate import Generator
from augment.stages.inpaint import Inpainter
from augment.stages.refine import Refiner
from augment.stages.remove import Remover
from augment.store.cache import Cache
from augment.testing import parts
from augment.testing.scenes import scenes

KINDS = (Remover.kind, Inpainter.kind, Captioner.kind, Refiner.kind, Generator.kind)
REMOVE, INPAINT, CAPTION, REFINE, GENERATE = KINDS


def main(quick: bool = False, json: Path | None = None) -> None:
    """Print the ratios; `--json FILE` writes all figures."""
    count, repeats = (12, 1) if quick else (24, 3)
    figures: dict[str, Any] = {"images": count}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_images(folder / "images", count)
        recipe = _recipe(folder)
        rounds = [{what: _measure(what, folder, recipe) for what in ("loop", "prewarm")} for _ in range(repeats)]
        alone = {kind: _measure(f"alone {kind}", folder, recipe)["megabytes"] for kind in Recipe.load(recipe).makers}
    figures |= {"rounds": rounds, "megabytes alone": alone}
    figures["time, prewarm / bare loop"] = statistics.median(
        r["prewarm"]["seconds"] / r["loop"]["seconds"] for r in rounds
    )
    # CPU time does not depend on other work on the machine.
    figures["CPU time, prewarm / bare loop"] = statistics.median(
        r["prewarm"]["cpu seconds"] / r["loop"]["cpu seconds"] for r in rounds
    )
    figures["complete"] = _time_complete(100 if quick else 1000, repeats)
    peak = statistics.median(r["prewarm"]["megabytes"] for r in rounds)
    figures["peak memory, prewarm / largest stage alone"] = peak / max(alone.values())
    figures["complete cache, images a second"] = statistics.median(figures["complete"])
    _show(figures)
    if json:
        json.write_text(jsonlib.dumps(figures, indent=1))


def _show(figures: dict[str, Any]) -> None:
    table = Table("figure", "value", "goal", title=f"prewarming {figures['images']} images of 512 x 512")
    goals = {
        "time, prewarm / bare loop": "≤ 1.05",
        "CPU time, prewarm / bare loop": "≤ 1.05",
        "peak memory, prewarm / largest stage alone": "≤ 1.1",
        "complete cache, images a second": "≥ 300",
    }
    for name, goal in goals.items():
        table.add_row(name, f"{figures[name]:.2f}", goal)
    for kind, megabytes in figures["megabytes alone"].items():
        table.add_row(f"peak MB of {kind} alone", f"{megabytes:.0f}", "")
    for what in ("loop", "prewarm"):
        seconds = [r[what]["seconds"] for r in figures["rounds"]]
        table.add_row(
            f"seconds, {what}", f"{statistics.median(seconds):.2f} ({min(seconds):.2f} … {max(seconds):.2f})", ""
        )
    Console().print(table)


def _time_complete(count: int, repeats: int) -> list[float]:
    """Images per second of a run over a complete cache, in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_images(folder / "images", count, masks=folder / "masks")
        recipe = Recipe.load("classic").changed(
            {
                "remove.backend": "masks",
                "remove.folder": str(folder / "masks"),
                "inpaint.backend": "telea",
                "inpaint.radius": 1.0,
                "generate.backend": "folder",
                "generate.folder": str(folder / "images"),
            }
        )
        prewarm(folder / "images", folder / "cache", recipe, progress=False)
        rates = []
        for _ in range(repeats):
            started = time.perf_counter()
            report = prewarm(folder / "images", folder / "cache", recipe, progress=False)
            rates.append(count / (time.perf_counter() - started))
            if report.complete < count or report.nbytes:
                raise RuntimeError(f"the cache was not complete: {report}")
        return rates


def _recipe(folder: Path) -> Path:
    """ISNet, and tiny GIT and Stable Diffusion models of the real classes, loaded and freed like a user's models."""
    from augment.testing.tiny import tiny_git, tiny_stable_diffusion

    tiny_git(folder / "git")
    tiny_stable_diffusion(folder / "sd")
    recipe = Recipe.load("sd15").changed(
        {
            "remove.model": str(parts.isnet()),
            "inpaint.backend": "exemplar",
            "caption.model": str(folder / "git"),
            "refine.backend": "templates",
            "generate.model": str(folder / "sd"),
            "generate.steps": 2,
            "generate.size": 64,
        }
    )
    path = folder / "recipe.toml"
    path.write_text(recipe.to_toml())
    return path


def _write_images(folder: Path, count: int, masks: Path | None = None) -> None:
    for path in filter(None, (folder, masks)):
        path.mkdir()
    for number, scene in enumerate(scenes(count, 512, seed=3)):
        PIL.Image.fromarray(scene.image).save(folder / f"{number:04}.jpg", quality=92)
        if masks:
            PIL.Image.fromarray(scene.alpha).save(masks / f"{number:04}.png")


def _measure(what: str, folder: Path, recipe: Path) -> dict[str, float]:
    """Seconds and peak megabytes of one job in its own process; imports are not timed."""
    command = [sys.executable, "-m", "benchmarks.prewarm", what, str(folder), str(recipe)]
    return dict(
        jsonlib.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    )


def _job(what: str, folder: Path, recipe_file: Path) -> None:
    recipe = Recipe.load(recipe_file)
    started, before = time.perf_counter(), time.process_time()
    if what == "loop":
        _bare_loop(folder, recipe)
    elif what.startswith("alone"):
        _one_stage(folder, recipe, what.split()[1])
    else:
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        prewarm(folder / "images", cache, recipe, workers=0, progress=False)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before
    print(jsonlib.dumps({"seconds": seconds, "cpu seconds": cpu, "megabytes": used.ru_maxrss / 1024}))


def _bare_loop(folder: Path, recipe: Recipe) -> None:
    """The same stages with the same batches; everything is kept in memory and nothing is written."""
    paths = sorted((folder / "images").iterdir())
    images = [to_rgb(PIL.Image.open(path)) for path in paths]
    for image in images:
        image_key(image)
    stages = recipe.stages
    mattes: list[Matte] = _run(stages[REMOVE.name], images=images)
    usable = [(image, matte) for image, matte in zip(images, mattes, strict=True) if not matte.unusable]
    images, mattes = [image for image, _ in usable], [matte for _, matte in usable]
    plates = _run(stages[INPAINT.name], images=images, mattes=mattes)
    captions = _run(stages[CAPTION.name], plates=plates)
    count = len(captions)
    seeds = list(range(count))
    prompts = _run(stages[REFINE.name], captions=captions, groups=[None] * count, variants=[0] * count, seeds=seeds)
    _run(stages[GENERATE.name], prompts=prompts, plates=plates, mattes=mattes, seeds=seeds)


def _run(stage: Stage, **columns: Sequence[Any]) -> list[Any]:
    named = {name: column for name, column in columns.items() if name in given_by_kind(type(stage))}
    results: list[Any] = []
    size = 1 if stage.parallel else stage.batch
    for start in range(0, len(next(iter(columns.values()))), size):
        results += stage(**{name: list(column[start : start + size]) for name, column in named.items()})
    stage.unload()
    return results


def _one_stage(folder: Path, recipe: Recipe, name: str) -> None:
    """One stage over the artifacts of an earlier prewarm, streamed as in a user's own loop."""
    chain = Chain(recipe, Cache(folder / "cache"))
    kind, stage = recipe.stages[name].kind, recipe.stages[name]
    size = 1 if stage.parallel else stage.batch
    works = _works(chain, folder, kind)
    while batch := list(islice(works, size)):
        units, _ = chain.load(kind, batch)
        seeds = {key: 1 for key, need in given_by_kind(type(stage)).items() if need is SEED}
        given = [{**unit.given, **seeds} for unit in units]
        stage(**{key: [one[key] for one in given] for key in given[0]})


def _works(chain: Chain, folder: Path, kind: Kind[Any]) -> Iterator[Work]:
    for path in sorted((folder / "images").iterdir()):
        image = to_rgb(PIL.Image.open(path))
        key = image_key(image)
        matte = chain.artifact(REMOVE, key)
        if kind is REMOVE or (matte is not None and not matte.unusable):
            yield Work(Item(image, key), 0 if kind.per_variant else None)


if __name__ == "__main__":
    _job(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
