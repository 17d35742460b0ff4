"""What prewarming costs beside the stages themselves: time, memory, and a run that finds everything done.

`python -m benchmarks prewarm` compares `augment.prewarm` with the same stages called in a bare loop, at the same batch
and with one process, and each in a process of its own, so that peak memory is the process's. What is complete is timed
with stages that fill a cache quickly: a finished run only looks, whatever filled it.
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
from pathlib import Path
from typing import Any

import PIL.Image
from rich.console import Console
from rich.table import Table

from augment.artifacts import Matte
from augment.cache import Cache
from augment.chain import Chain
from augment.keys import image_key, to_rgb
from augment.prewarming import prewarm
from augment.recipe import Recipe
from augment.stages.base import Item, Stage
from benchmarks import parts
from benchmarks.scenes import scenes


def main(quick: bool = False, json: Path | None = None) -> None:
    """Print the ratios; `--json FILE` keeps every figure."""
    count, repeats = (12, 1) if quick else (24, 3)
    figures: dict[str, Any] = {"images": count}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_images(folder / "images", count)
        recipe = _recipe(folder)
        rounds = [{what: _measure(what, folder, recipe) for what in ("loop", "prewarm")} for _ in range(repeats)]
        alone = {kind: _measure(f"alone {kind}", folder, recipe)["megabytes"] for kind in Recipe.load(recipe).stages}
    figures |= {"rounds": rounds, "megabytes alone": alone}
    figures["time, prewarm / bare loop"] = statistics.median(
        r["prewarm"]["seconds"] / r["loop"]["seconds"] for r in rounds
    )
    # What other work on the machine does not change.
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
    """Images a second of a run that finds everything done, in this process."""
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
    """ISNet, and GIT and Stable Diffusion of real classes with tiny weights: loaded and freed as users' models are."""
    from tests.tiny import tiny_git, tiny_stable_diffusion

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
    """Seconds and peak megabytes of one job in a process of its own; imports are not timed."""
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
    """The same stages at the same batches, everything kept in memory and nothing written."""
    paths = sorted((folder / "images").iterdir())
    items = []
    for path in paths:
        image = to_rgb(PIL.Image.open(path))
        items.append(Item(image, image_key(image), str(path)))
    mattes: list[Matte] = _run(recipe.remove, items)
    usable = [(item, matte) for item, matte in zip(items, mattes, strict=True) if not matte.unusable]
    images, mattes = [item.image for item, _ in usable], [matte for _, matte in usable]
    plates = _run(recipe.inpaint, images, mattes)
    captions = _run(recipe.caption, plates)
    count = len(captions)
    prompts = _run(recipe.refine, captions, [None] * count, [0] * count, list(range(count)))
    _run(recipe.generate, prompts, plates, mattes, list(range(count)))


def _run(stage: Stage, *arguments: Sequence[Any]) -> list[Any]:
    results: list[Any] = []
    size = 1 if stage.parallel else stage.batch
    for start in range(0, len(arguments[0]), size):
        results += stage(*(list(column[start : start + size]) for column in arguments))  # type: ignore[operator]
    stage.unload()
    return results


def _one_stage(folder: Path, recipe: Recipe, kind: str) -> None:
    """One stage over the artifacts that an earlier prewarm left, streamed as a user's own loop would."""
    chain = Chain(recipe, Cache(folder / "cache"))
    stage = recipe.stages[kind]
    size = 1 if stage.parallel else stage.batch
    batch: list[tuple[Any, ...]] = []
    for arguments in _arguments(chain, folder, kind):
        batch.append(arguments)
        if len(batch) == size:
            stage(*map(list, zip(*batch, strict=True)))  # type: ignore[operator]
            batch = []
    if batch:
        stage(*map(list, zip(*batch, strict=True)))  # type: ignore[operator]


def _arguments(chain: Chain, folder: Path, kind: str) -> Iterator[tuple[Any, ...]]:
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        image = to_rgb(PIL.Image.open(path))
        key = image_key(image)
        matte = chain.artifact("remove", key)
        if kind == "remove":
            yield (Item(image, key),)
        elif matte.unusable:
            continue
        elif kind == "inpaint":
            yield image, matte
        elif kind == "caption":
            yield (chain.artifact("inpaint", key),)
        elif kind == "refine":
            yield chain.artifact("caption", key), None, 0, number
        else:
            yield chain.artifact("refine", key, 0), chain.artifact("inpaint", key), matte, number


if __name__ == "__main__":
    _job(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
