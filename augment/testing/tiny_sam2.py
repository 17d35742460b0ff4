"""A tiny untrained SAM 2 of the real classes, saved to a folder in the same layout as on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def tiny_sam2(folder: Path, seed: int = 0) -> Path:
    """A Sam2Model for images of 128×128 pixels, 8 wide, and its processor; its masks are random."""
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2Processor,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=128)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_depth=2, iou_head_hidden_dim=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shapes: dict[str, Any] = {
            "vision_config": vision,
            "prompt_encoder_config": prompts,
            "mask_decoder_config": decoder,
        }
        model = Sam2Model(Sam2Config(**shapes, initializer_range=0.2))
    model.save_pretrained(folder)
    size = {"height": 128, "width": 128}
    Sam2Processor(Sam2ImageProcessor(size=size, mask_size={"height": 32, "width": 32})).save_pretrained(folder)
    return folder
