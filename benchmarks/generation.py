"""Throughput of Stable Diffusion 1.5 with random weights, run as in the prototype and as in this library.

The prototype called `StableDiffusionPipeline` with its defaults: one image at a time, 50 steps, float32. Each further
row changes one thing and keeps the changes above it. Random weights run as fast as trained ones, but their images are
meaningless.
"""

from __future__ import annotations

import json as jsonlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from augment.artifacts import Prompt
from augment.models.diffusers import Runtime, free_memory, quiet
from augment.models.weights import pick_device
from augment.stages.generate.diffusers import Diffusers

# Dense half-precision rates in FLOP/s, from NVIDIA's data sheets, by a part of torch's name for the device.
_DATA_SHEET = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
PROMPT = Prompt("a quiet gravel path between tall pines in soft morning light, photograph", "people, text, blurry")


@dataclass(frozen=True)
class Row:
    """One way of running the model. `seconds` and `flops` are per image; `memory` is the GPU's peak in bytes."""

    name: str
    steps: int
    batch: int
    seconds: float
    flops: float
    memory: int


def main(quick: bool = False, json: Path | None = None) -> None:
    """Print the table and write it to `json`. `quick` uses a small architecture and few steps, for a CPU."""
    console = Console()
    device = "cpu" if quick else pick_device()
    chip = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    sheet = next((rate for name, rate in _DATA_SHEET.items() if name in chip), None)
    matmul = _matmul_rate(device)
    peak = sheet or matmul
    with tempfile.TemporaryDirectory() as name:
        folder = save_pipeline(Path(name), quick)
        rows = _measure(folder, device, quick)
    by_source = "its data sheet" if sheet else "a large matrix product"
    console.print(
        f"{chip}: peak {peak / 1e12:.2f} TFLOP/s, from {by_source}; a matrix product reaches {matmul / 1e12:.2f}.\n"
        "TFLOP: work per image. GiB: peak GPU memory."
    )
    table = Table("one change per row", "ratio", "of peak", "images/s", "TFLOP", "GiB")
    for row in rows:
        table.add_row(
            row.name,
            f"{rows[0].seconds / row.seconds:.2f}",
            f"{row.flops / row.seconds / peak:.1%}",
            f"{1 / row.seconds:.3g}",
            f"{row.flops / 1e12:.3g}",
            f"{row.memory / 2**30:.1f}" if row.memory else "-",
        )
    console.print(table)
    if json is not None:
        found = {
            "chip": chip,
            "peak": peak,
            "peak_by": by_source,
            "matmul": matmul,
            "rows": [asdict(row) for row in rows],
        }
        json.write_text(jsonlib.dumps(found, indent=2))


def save_pipeline(folder: Path, small: bool) -> Path:
    """An untrained StableDiffusionPipeline in float16, configured as version 1.5, or a thousandth of its size."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    # One token per letter: the text encoder always gets 77 tokens, whatever they are.
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77
    )
    width = 32 if small else 768
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8 if small else 64,
            block_out_channels=(32, 32, 64, 64) if small else (320, 640, 1280, 1280),
            layers_per_block=1 if small else 2,
            attention_head_dim=8,
            cross_attention_dim=width,
        )
        vae = AutoencoderKL(
            sample_size=64 if small else 512,
            block_out_channels=(32, 32, 32, 32) if small else (128, 256, 512, 512),
            layers_per_block=1 if small else 2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens) if small else 49408,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=1 if small else 12,
                num_attention_heads=4 if small else 12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with quiet():
        pipeline.to(dtype=torch.float16)
        pipeline.save_pretrained(folder)
    return folder


def _measure(folder: Path, device: str, quick: bool) -> list[Row]:
    """The prototype's row, then ours, each with one more change."""
    many, few, batch = (5, 2, 2) if quick else (50, 20, 8)
    half: Any = "float16" if device.startswith("cuda") else "bfloat16"
    # The prototype's settings, expressed as ours; then one change per row up to the default on a GPU, and beyond.
    plain = Runtime(device=device, dtype="float32", channels_last=False, vae_slicing=False)
    stage = Diffusers(str(folder), steps=many, scheduler="model", batch_size=1, runtime=plain)
    changes: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        (half, {}, {"dtype": half}),
        (f"{few} steps of DPM-Solver++", {"steps": few, "scheduler": "auto"}, {}),
        (f"batches of {batch}", {"batch_size": batch}, {}),
        ("channels last, VAE slices", {}, {"channels_last": True, "vae_slicing": True}),
    ]
    if not quick:
        changes += [
            (f"batches of {4 * batch}", {"batch_size": 4 * batch}, {}),
            ("compiled", {}, {"compile": True}),
        ]
    rows = [_row(f"prototype: {many} steps, one by one", stage, _prototype(folder, device, many), quick)]
    for name, settings, run in changes:
        stage = replace(stage, **settings, runtime=replace(stage.runtime, **run))
        flops = rows[-1].flops if stage.runtime.compile else None  # dispatch modes cannot see inside a compiled model
        free_memory()
        rows.append(_row(f"+ {name}", stage, _ours(stage), quick, flops))
        stage.unload()
    return rows


def _prototype(folder: Path, device: str, steps: int) -> Callable[[int], None]:
    from diffusers import StableDiffusionPipeline

    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def call(count: int) -> None:
        for _ in range(count):
            pipeline(PROMPT.text, negative_prompt=PROMPT.negative, num_inference_steps=steps)

    return call


def _ours(stage: Diffusers) -> Callable[[int], None]:
    def call(count: int) -> None:
        side = 512
        plates = [np.zeros((side, side, 3), np.uint8)] * count
        stage(prompts=[PROMPT] * count, plates=plates, seeds=range(count))

    return call


def _row(name: str, stage: Diffusers, call: Callable[[int], None], quick: bool, flops: float | None = None) -> Row:
    """Warm up, counting operations unless they are known; then measure the median time of a batch."""
    device = stage.runtime.device
    if flops is None:
        with FlopCounterMode(display=False) as counter:
            call(stage.batch_size)
        flops = counter.get_total_flops() / stage.batch_size
    call(stage.batch_size)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(1 if quick else 5):
        _wait(device)
        start = time.perf_counter()
        call(stage.batch_size)
        _wait(device)
        times.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0
    return Row(name, stage.steps or 0, stage.batch_size, float(np.median(times)) / stage.batch_size, flops, memory)


def _matmul_rate(device: str) -> float:
    """FLOP/s of a large square matrix product, in float16 on a GPU and float32 elsewhere."""
    side, dtype = (8192, torch.float16) if device.startswith("cuda") else (1024, torch.float32)
    one = torch.randn(side, side, device=device, dtype=dtype)
    times = []
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        one @ one
        _wait(device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
