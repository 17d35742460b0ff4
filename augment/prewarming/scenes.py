"""Fill a cache with scenes: backgrounds made from prompts alone, which serve every image."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from augment.artifacts import Image
from augment.errors import InputError
from augment.prewarming.local import run
from augment.prewarming.report import Report
from augment.prewarming.scene_plan import SceneChain, ScenePlan
from augment.recipe import Recipe, as_recipe
from augment.stages.base import GROUP, given_by_kind
from augment.stages.calling import Work
from augment.stages.enrich import Enricher
from augment.store.cache import Cache

_SIDES = range(16, 8193)
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # no text, or text of another encoding
_TRACED = ("backend", "version", "seconds", "prompt", "seed", "attempt", "rejected", "steps")


def scenes(
    prompts: str | Path | Sequence[str],
    cache: Cache | str | Path | None = None,
    recipe: str | Path | Recipe = "webui",
    *,
    output: str | Path | None = None,
    count: int | None = None,
    depth: int | None = None,
    size: tuple[int, int] = (512, 512),
    progress: bool = True,
) -> Report:
    """Make scenes from prompts alone: generate a picture, find its objects, and repaint each with a sub-prompt.

    The recipe's `generate` makes the picture; its `enrich`, if it has one, finds and repaints the objects. The scenes
    of a cache serve every image there, with any recipe: see `augment.Source`. It can be stopped at any time and run
    again; only what is missing is made. The same prompt, settings and size give the same scenes on any machine.

    Args:
        prompts: one prompt, a list of them, or a text file (UTF-8) with one a line, in which blank lines and lines that
            begin with "#" are skipped. The `prefix`, `suffix` and `negative` of the recipe's refiner apply.
        cache: the Cache, or its folder, whose images the scenes are for; created if it does not exist.
        recipe: a preset's name, a TOML file or a Recipe. Its generator must need no image.
        output: a folder for pictures: every scene as `000-PROMPT.png` with its steps in a folder of that name, and
            `trace.json`. Without a cache, what is made is kept in `cache` in that folder, as lossless PNG.
        count: how many scenes in all, spread over the prompts; None is one of each.
        depth: rounds of enrichment, in place of the recipe's; 0 is none.
        size: (height, width) in pixels.
        progress: show a progress bar per stage on standard error (plain lines if it is not a terminal).

    Returns counts; a scene that fails is listed in `failures` and does not stop the run. Raises InputError for an
    invalid argument, RecipeError, UnavailableError and StoreError, Interrupted and Ended as `augment.prewarm` does.
    """
    texts, remarks = _texts(prompts)
    wanted = len(texts) if count is None else count
    if wanted < 1:
        raise InputError(f"count: {count} is not a number of scenes, 1 or more")
    if not all(side in _SIDES for side in size):
        raise InputError(f"size: {size} is not a height and a width of {_SIDES[0]} to {_SIDES[-1]} pixels")
    if cache is None and output is None:
        raise InputError("scenes: name a cache that they join (--cache), a folder for pictures (-o), or both")
    settled = _without_classes(_settled(as_recipe(recipe), depth, output is not None), remarks)
    folder = None if output is None else _writable(Path(output).expanduser())
    if cache is None:
        assert folder is not None
        cache = Cache(folder / "cache", codec="png")
    chain = SceneChain(settled, cache if isinstance(cache, Cache) else Cache(cache), size)
    chain.check()
    plan = ScenePlan(chain, texts, wanted, keep_steps=folder is not None)
    try:
        report = run(plan, progress)
    finally:
        if folder is not None:
            _write(plan, folder)
    if wanted < len(texts):
        remarks.append(f"{wanted} scenes for {len(texts)} prompts: the last {len(texts) - wanted} have none")
    report.remarks += remarks
    return report


def _texts(prompts: str | Path | Sequence[str]) -> tuple[list[str], list[str]]:
    """The prompts, once each, and what is to be said of them. Raises InputError."""
    where = "prompts"
    if isinstance(prompts, Path) or (isinstance(prompts, str) and _names_file(prompts)):
        where, lines = str(prompts), _read(Path(prompts).expanduser()).splitlines()
        lines = [line for line in lines if not line.lstrip().startswith("#")]
    else:
        lines = [prompts] if isinstance(prompts, str) else list(prompts)
    if wrong := [line for line in lines if not isinstance(line, str)]:
        raise InputError(f"prompts: {wrong[0]!r} is not text")
    found = [text for line in lines if (text := re.sub(r"\s+", " ", line).strip(" ,"))]
    if not found:
        raise InputError(f"{where}: no prompt in it; write one a line, such as: city street at night, wet asphalt")
    if wrong := [text for text in found if _UNSPEAKABLE.search(text)]:
        raise InputError(f"{where}: {wrong[0][:60]!r} holds control characters; is it a text file in UTF-8?")
    texts = list(dict.fromkeys(found))
    twice = len(found) - len(texts)
    return texts, [f"{twice} prompts say the same as an earlier one and count once with it"] if twice else []


def _names_file(text: str) -> bool:
    """Whether it is the path of a file and not a prompt. Raises InputError if it looks like one and there is none."""
    if os.path.exists(os.path.expanduser(text)):
        return True
    if not re.search(r"\s", text) and (os.sep in text or re.search(r"\w\.\w{1,5}$", text)):
        raise InputError(f"{text}: there is no such file; a prompt describes a scene in words")
    return False


def _read(path: Path) -> str:
    if path.is_dir():
        raise InputError(f"{path}: it is a folder; name a text file with one prompt a line")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not a text file in UTF-8; write one prompt a line") from error


def _settled(recipe: Recipe, depth: int | None, keep_steps: bool) -> Recipe:
    """The recipe with its depth, and keeping the pictures on the way if they are wanted."""
    kind = Enricher.kind.name
    if depth == 0:
        recipe = recipe.changed({kind: None} if kind in recipe.stages else {})
    elif depth is not None:
        recipe = recipe.changed({f"{kind}.depth": depth})
    kept = [kind for kind, stage in recipe.makers.items() if hasattr(stage, "keep_steps")]
    return recipe.changed({f"{kind}.keep_steps": keep_steps for kind in kept})


def _without_classes(recipe: Recipe, remarks: list[str]) -> Recipe:
    """The recipe without guards that look for the class of an item: a scene has none. Adds a remark on each."""
    idle = [
        kind
        for kind, judge in recipe.judges.items()
        if judge.group is None and GROUP in given_by_kind(type(judge)).values()
    ]
    remarks += [f"{kind} is not used: scenes have no class of their own; name one as {kind}.group" for kind in idle]
    return recipe.changed(dict.fromkeys(idle))


def _writable(folder: Path) -> Path:
    """The folder, made if need be. Raises InputError before any work if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"output: {folder} cannot be written: {error.strerror}") from error


def _write(plan: ScenePlan, folder: Path) -> None:
    """Write the pictures of the scenes that are there, and `trace.json`."""
    trace: dict[str, Any] = {"recipe": plan.chain.recipe.to_dict(), "size": plan.chain.plate.shape[:2], "scenes": []}
    for number, work in enumerate(plan.wanted_works):
        pictures = _pictures(plan.chain, work) if plan.is_made(work) else {}
        if not pictures:
            continue
        slug = re.sub(r"\W+", "-", work.item.source or "").strip("-")[:40].strip("-")
        name = f"{number:03d}-{slug}"
        try:
            for step, picture in pictures.items():
                path = folder / (f"{name}/{step}.png" if step else f"{name}.png")
                path.parent.mkdir(exist_ok=True)
                PIL.Image.fromarray(picture).save(path)
        except OSError as error:
            raise InputError(f"output: {path} cannot be written: {error}") from error
        trace["scenes"].append(_account(plan.chain, work) | {"picture": f"{name}.png"})
    (folder / "trace.json").write_text(json.dumps(trace, indent=1, ensure_ascii=False), encoding="utf-8")


def _pictures(chain: SceneChain, work: Work) -> dict[str, Image]:
    """What was made on the way to a scene, by name, in order, and the scene itself under ""."""
    key, variant = work.item.key, work.variant or 0
    scene = chain.artifact(chain.final, key, variant)
    drafts = {kind: chain.artifact(kind, key, variant) for kind in chain.kinds if kind is not chain.final}
    steps = [(f"0-{kind.name}", draft) for kind, draft in drafts.items() if draft is not None]
    steps += chain.reader.steps(key, variant)
    return {} if scene is None else {"": scene} | dict(steps)


def _account(chain: SceneChain, work: Work) -> dict[str, Any]:
    """How a scene was made, as JSON."""
    found: dict[str, Any] = {"prompt": work.item.source, "key": work.item.key, "variant": work.variant}
    for kind in chain.kinds:
        account = chain.account(kind, work)
        found[kind.name] = {name: account[name] for name in (*_TRACED, *chain.recipe.judges) if name in account}
    return found
