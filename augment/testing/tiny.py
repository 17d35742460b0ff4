"""Tiny untrained models of the real classes, saved to a folder in the same layout as on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_WORDS = [*("sky", "grass", "sand", "sea", "rock", "wall", "road", "tree"), *("a", "the", "of", "on", "soft", "grey")]


def tiny_git(folder: Path, seed: int = 0) -> Path:
    """A GitForCausalLM, 32 wide with 2 layers, and its processor; captions are random words out of a dozen."""
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    tokenizer = _word_tokenizer()
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

    tokenizer = _word_tokenizer(extra=["<image>", "USER:", "ASSISTANT:"])
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


def tiny_stable_diffusion(folder: Path, seed: int = 0) -> Path:
    """A StableDiffusionPipeline without a safety checker: latents at an eighth of the size, 64×64 pixels by default."""
    from diffusers import StableDiffusionPipeline

    return _save_pipeline(StableDiffusionPipeline, folder, seed, channels=4)


def tiny_inpaint(folder: Path, seed: int = 0) -> Path:
    """A StableDiffusionInpaintPipeline. Its UNet takes 9 channels: latents, mask, and the masked image's latents."""
    from diffusers import StableDiffusionInpaintPipeline

    return _save_pipeline(StableDiffusionInpaintPipeline, folder, seed, channels=9)


def _word_tokenizer(extra: Sequence[str] = ()) -> Any:
    """A tokenizer that knows `_WORDS`, and each of `extra` as one special token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special.values(), *_WORDS])}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, **special, extra_special_tokens=list(extra))


def _save_pipeline(pipeline: Any, folder: Path, seed: int, channels: int) -> Path:
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    # Every byte, inside a word and at its end, without merges: one token per letter.
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=vocabulary["<|startoftext|>"],
                eos_token_id=vocabulary["<|endoftext|>"],
                pad_token_id=vocabulary["<|endoftext|>"],
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=32,
        )
        vae = AutoencoderKL(
            sample_size=64,
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    # Stable Diffusion 1.5's own scheduler and settings.
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
