"""Files for diffusion pipelines in the forms in which people pass them on: one checkpoint, a LoRA."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def single_file(folder: Path, path: Path) -> Path:
    """The pipeline of `tiny_stable_diffusion` as one .safetensors or .ckpt file, in Stable Diffusion's first layout."""
    from safetensors.torch import load_file, save_file

    parts = {name: load_file(next((folder / name).glob("*.safetensors"))) for name in ("unet", "vae", "text_encoder")}
    layers: int = json.loads((folder / "unet" / "config.json").read_bytes())["layers_per_block"]
    state = {
        **{f"model.diffusion_model.{_unet_key(key, layers)}": value for key, value in parts["unet"].items()},
        **{f"first_stage_model.{_vae_key(key)}": _as_conv(key, value) for key, value in parts["vae"].items()},
        **{
            "cond_stage_model.transformer.text_model." + key.removeprefix("text_model."): value
            for key, value in parts["text_encoder"].items()
        },
    }
    if path.suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 1}, path)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def tiny_lora(pipeline: Any, path: Path, rank: int = 2, seed: int = 0) -> Path:
    """A random LoRA for the attention of the pipeline's UNet, strong enough to be seen."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for name, module in pipeline.unet.named_modules():
        if re.search(r"\.to_(q|v)$", name):
            rows, columns = module.weight.shape
            state[f"unet.{name}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
            state[f"unet.{name}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    save_file(state, path)
    return path


def _unet_key(key: str, layers: int) -> str:
    for name, ldm in _ENDS.items():
        if key.startswith(f"{name}."):
            return key.replace(name, ldm, 1)
    match = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key)
    if match is None:
        middle = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key)
        assert middle is not None, key
        inner = _renamed(middle[3], _RESNET) if middle[1] == "resnets" else middle[3]
        return f"middle_block.{1 if middle[1] == 'attentions' else 2 * int(middle[2])}.{inner}"
    way, block, part, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if part == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv', 'op', 1)}"
    if part == "upsamplers":  # after an attention, if the block has one: the first up-block of ours has
        return f"output_blocks.{block * (layers + 1) + layers}.2.{rest}"
    index = block * (layers + 1) + layer
    column, inner = (0, _renamed(rest, _RESNET)) if part == "resnets" else (1, rest)
    return f"{'input' if way == 'down' else 'output'}_blocks.{index + (way == 'down')}.{column}.{inner}"


def _vae_key(key: str) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{3 - int(match[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{3 - int(match[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)", key):
        return f"{match[1]}mid.attn_1.{_renamed(match[2], _ATTENTION)}"
    return key


def _as_conv(key: str, value: torch.Tensor) -> torch.Tensor:
    """The attention of the first layout is made of convolutions of one pixel."""
    return value[:, :, None, None] if "attentions" in key and value.ndim == 2 else value


def _renamed(key: str, names: Mapping[str, str]) -> str:
    name = next(name for name in names if key.startswith(f"{name}."))
    return key.replace(name, names[name], 1)


def tiny_inpainting_onnx(path: Path, size: int = 512, scale: float = 255.0, mask: str = "mask") -> Path:
    """A network with LaMa's inputs and output that fills the hole with the mean of the visible pixels, given in 0 to
    `scale`. `mask` is the name of its second input. Needs the package onnx."""
    from onnx import TensorProto, helper, save

    def value(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, size, size])

    def constant(name: str, number: float) -> Any:
        return helper.make_tensor(name, TensorProto.FLOAT, [1], [number])

    nodes = [
        helper.make_node("Sub", ["one", mask], ["visible"]),
        helper.make_node("Mul", ["image", "visible"], ["seen"]),
        helper.make_node("GlobalAveragePool", ["seen"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["visible"], ["share"]),
        helper.make_node("Div", ["sum", "share"], ["mean"]),
        helper.make_node("Mul", [mask, "mean"], ["hole"]),
        helper.make_node("Add", ["seen", "hole"], ["filled"]),
        helper.make_node("Mul", ["filled", "scale"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "inpainting",
        [value("image", 3), value(mask, 1)],
        [value("output", 3)],
        [constant("one", 1.0), constant("scale", scale)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, path)
    return path
