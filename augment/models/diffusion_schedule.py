"""What a diffusion model says about itself: how many steps it takes, how much guidance, by which scheduler."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from augment.errors import RecipeError, UnavailableError

logger = logging.getLogger(__name__)

_SOLVER = "DPMSolverMultistepScheduler"
_SOLVER_STEPS = 20  # what second-order DPM-Solver++ needs (Lu et al. 2022); signatures say 50, for first-order ones
_CONSISTENCY = ("LCMScheduler", "TCDScheduler")
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
_TRAILING = {"timestep_spacing": "trailing"}


@dataclass(frozen=True)
class Distillation:
    """A model that was taught to do in a few steps what it did in many, mostly with its guidance built in.

    `scheduler` is the class that it was taught with, with those `options`; None is the one it is saved with.
    """

    steps: int
    guidance: float
    scheduler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


# By the words that the publishers of such models put into their names; numbers and schedulers are their model cards'.
_BY_NAME: tuple[tuple[str, Distillation], ...] = (
    (r"lcm|dmd2", Distillation(4, 1.0, "LCMScheduler")),
    (r"tcd", Distillation(4, 0.0, "TCDScheduler")),
    (r"hyper ?(?:sd|flux)\w*", Distillation(8, 0.0, "DDIMScheduler", _TRAILING)),
    (r"lightning", Distillation(4, 0.0, "EulerDiscreteScheduler", _TRAILING)),
    (r"turbo|schnell", Distillation(4, 0.0)),
)
_BY_DENOISER = {"ZImageTransformer2DModel": 9}  # of which the last is not evaluated


@dataclass(frozen=True)
class Own:
    """A pipeline's own settings. `argument` is the one of its call that `guidance` is."""

    steps: int
    guidance: float
    argument: str = "guidance_scale"
    distilled: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def named_distillation(names: Sequence[str]) -> Distillation | None:
    """The distillation that the name of a model, of its file or of its LoRA tells; the last name that tells one."""
    for name in reversed(names):
        words = re.sub(r"[^a-z0-9]+", " ", Path(name).name.lower())
        steps = re.search(r"\b(\d+) ?steps?\b", words)
        for pattern, found in _BY_NAME:
            if re.search(rf"\b(?:sdxl|sd|flux)?(?:{pattern})\b", words):
                if steps is None:
                    return found
                if found.scheduler == "DDIMScheduler" and steps[1] == "1":
                    return Distillation(1, 0.0, "TCDScheduler")
                return replace(found, steps=int(steps[1]))
    return None


def distillation(pipeline: Any, names: Sequence[str]) -> Distillation | None:
    """How the pipeline was distilled, by its configuration or else by `names`; None if it was not."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    config: Any = getattr(denoiser, "config", {})
    scheduler, named = pipeline.scheduler, named_distillation(names)
    if named is not None:
        # The length that a transformer was distilled to is its own.
        return replace(named, steps=_BY_DENOISER.get(type(denoiser).__name__, named.steps))
    if getattr(getattr(pipeline, "config", None), "is_distilled", False):  # Flux.2 klein
        return Distillation(4, 1.0)
    kind = type(scheduler).__name__
    if kind in ("LCMScheduler", "TCDScheduler"):
        return Distillation(4, 1.0 if kind == "LCMScheduler" else 0.0)
    trailing = scheduler.config.get("timestep_spacing") == "trailing"
    plain = scheduler.config.get("prediction_type") == "epsilon" and not scheduler.config.get("rescale_betas_zero_snr")
    if trailing and plain and kind.startswith("Euler"):
        return Distillation(4, 0.0)
    # Flux: both models are distilled, dev with its guidance as an input and a schedule that depends on the size.
    schnell = config.get("guidance_embeds") is False and not scheduler.config.get("use_dynamic_shifting")
    return Distillation(4, 0.0) if schnell and type(denoiser).__name__ == "FluxTransformer2DModel" else None


def own_settings(pipeline: Any, distilled: Distillation | None = None) -> Own:
    """The steps and the guidance that the pipeline has been made for: its signature's, unless it is distilled, or
    unless its scheduler needs fewer steps."""
    parameters = inspect.signature(pipeline.__call__).parameters
    signature = {name: parameter.default for name, parameter in parameters.items()}
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    config: Any = getattr(denoiser, "config", {})
    steps = int(signature.get("num_inference_steps") or 50)
    if type(pipeline.scheduler).__name__ == _SOLVER:
        steps = min(steps, _SOLVER_STEPS)
    argument = "guidance_scale"
    if signature.get(argument) is None and "true_cfg_scale" in signature and not config.get("guidance_embeds"):
        argument = "true_cfg_scale"
    guidance = float(signature.get(argument) or 0)
    if distilled is None:
        return Own(steps, guidance, argument)
    embedded = config.get("time_cond_proj_dim") or config.get("guidance_embeds")  # guidance is an input of the model
    flux = type(denoiser).__name__ == "FluxTransformer2DModel" and not config.get("guidance_embeds")
    extra = {"max_sequence_length": 256} if flux and "max_sequence_length" in signature else {}
    return Own(distilled.steps, guidance if embedded else distilled.guidance, argument, True, extra)


def warn_of_excess(own: Own, steps: int, guidance: float, model: str, table: str) -> None:
    """One warning for each setting that is far above what a distilled model has been made for."""
    if own.distilled and steps > 2 * own.steps:
        logger.warning(
            "%s.steps = %d: %s is distilled to about %d steps; more cost time and spoil its images",
            *(table, steps, model, own.steps),
        )
    if own.distilled and guidance > own.guidance + 1.5:
        logger.warning(
            "%s.guidance = %g: %s is distilled to guidance %g; more burns its images out",
            *(table, guidance, model, own.guidance),
        )


def set_scheduler(pipeline: Any, scheduler: str, table: str, distilled: Distillation | None = None) -> None:
    """Give the pipeline the scheduler that `choose_scheduler` chooses."""
    pipeline.scheduler = choose_scheduler(pipeline.scheduler, scheduler, table, distilled)


def choose_scheduler(own: Any, scheduler: str, table: str, distilled: Distillation | None = None) -> Any:
    """The scheduler instead of a model's `own`: "model" keeps it, a diffusers class name replaces it by that class.

    "auto" is the one that the model was `distilled` with, if it was; else second-order DPM-Solver++ over Karras' noise
    levels (Lu et al. 2022, Karras et al. 2022), which needs about 20 steps; the schedulers that models are saved with
    need 50. It keeps the model's own if that does not apply: flow matching, consistency models, and models distilled to
    a few steps, saved with "trailing" time steps. Raises RecipeError if the class does not fit the model,
    UnavailableError if it needs a library that is missing.
    """
    import diffusers

    options = dict(distilled.options) if distilled else {}
    if scheduler == "auto":
        if distilled is not None:
            if distilled.scheduler is None or distilled.scheduler not in _compatible(own):
                return own
            return getattr(diffusers, distilled.scheduler).from_config(own.config, **options)
        if _SOLVER not in own._compatibles or own.config.get("timestep_spacing") == "trailing":
            return own
        return getattr(diffusers, _SOLVER).from_config(own.config, use_karras_sigmas=True)
    if scheduler == "model":
        return own
    if scheduler not in _compatible(own):
        known = ", ".join(["auto", "model", *sorted(_compatible(own))])
        raise RecipeError(f"{table}.scheduler: {scheduler!r} does not fit this model; it takes {known}")
    try:
        return getattr(diffusers, scheduler).from_config(own.config, **options)
    except ImportError as error:
        raise UnavailableError(f"{table}.scheduler: {' '.join(str(error).split())}") from error


def _compatible(own: Any) -> set[str]:
    """The classes that diffusers names as compatible, and those that it names nowhere: consistency schedulers for
    models that predict noise, and those of flow matching for each other."""
    names = {type(own).__name__, *(cls.__name__ for cls in own.compatibles)}
    if type(own).__name__.startswith("FlowMatch"):
        return names.union(_FLOW)
    return names.union(_CONSISTENCY) if _SOLVER in own._compatibles else names


def check_scheduler(config: Mapping[str, Any], scheduler: str, table: str) -> None:
    """Raise as `choose_scheduler` does, for a model whose `scheduler_config.json` is `config`."""
    import diffusers

    own = getattr(diffusers, str(config.get("_class_name")), None)
    if own is not None:
        choose_scheduler(own.from_config(dict(config)), scheduler, table)
