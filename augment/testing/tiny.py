"""Tiny untrained models of the real classes, saved to a folder in the same layout as on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from augment.testing.tiny_diffusion import tiny_inpaint, tiny_stable_diffusion
from augment.testing.tiny_tokenizer import word_tokenizer

__all__ = ["tiny_chat", "tiny_git", "tiny_inpaint", "tiny_stable_diffusion"]


def tiny_git(folder: Path, seed: int = 0) -> Path:
    """A GitForCausalLM, 32 wide with 2 layers, and its processor; captions are random words out of a dozen."""
    from tokenizers import processors
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    tokenizer = word_tokenizer()
    ends = [(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    size = {"height": 32, "width": 32}
    image_processor = CLIPImageProcessor(size=size, crop_size=size)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = GitConfig(
        **shape,
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,  # wide enough that the image influences the words
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        GitForCausalLM(config).eval().save_pretrained(folder)
    GitProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def tiny_chat(folder: Path, seed: int = 0) -> Path:
    """A LlavaForConditionalGeneration, 32 wide, with a processor that has a chat template."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = word_tokenizer(extra=["<image>", "USER:", "ASSISTANT:"])
    size = {"height": 32, "width": 32}
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, image_size=32, patch_size=8),
        text_config=LlamaConfig(
            **shape,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.5,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{% for message in messages %}{{ message['role'].upper() }}: {% for part in message['content'] %}"
            "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %} {% endfor %}ASSISTANT:"
        ),
    ).save_pretrained(folder)
    return folder
