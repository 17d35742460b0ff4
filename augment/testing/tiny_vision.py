"""Tiny untrained vision language models of the real classes, saved to a folder in the same layout as on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from augment.testing.tiny_tokenizer import word_tokenizer

_SIDE = 32
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": _SIDE,
    "patch_size": 8,
}
_CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{{ MARK if part['type'] == 'image' else part['text'] }} {% endfor %}{% endfor %}assistant:"
    "{% if enable_thinking is defined and enable_thinking is false %} soft{% endif %}"
)


def tiny_florence2(folder: Path, seed: int = 0) -> Path:
    """A Florence2ForConditionalGeneration, which reads its task and the image in its encoder."""
    library = _transformers()
    tokenizer = word_tokenizer(
        {"image_token": "<image>"},
        ["Describe", "with", "paragraph", "what", "is", "shown", "in", "image"],
        bos_token="[CLS]",
        eos_token="[SEP]",
    )
    text = library.BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        init_std=0.5,
        is_encoder_decoder=True,
        **_ids(tokenizer),
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
    )
    config = library.Florence2Config(
        text_config=text,
        vision_config={
            "depths": (1, 1, 1, 1),
            "embed_dim": (8, 8, 16, 32),
            "num_heads": (2, 2, 2, 2),
            "num_groups": (2, 2, 2, 2),
            "window_size": 4,
            "projection_dim": 32,
        },
        image_token_id=tokenizer.image_token_id,
        is_encoder_decoder=True,
        **_ids(tokenizer),
    )
    images = library.CLIPImageProcessor(size=_square(64), crop_size=_square(64))
    images.image_seq_length = 5  # 2 x 2 places of the last stage, and their mean
    return _save(
        folder, seed, library.Florence2ForConditionalGeneration, config, library.Florence2Processor, images, tokenizer
    )


def tiny_paligemma(folder: Path, seed: int = 0) -> Path:
    """A PaliGemmaForConditionalGeneration, whose task is a text in front of the caption."""
    library = _transformers()
    tokenizer = word_tokenizer({"image_token": "<image>"}, ["caption", "en"], bos_token="[CLS]", eos_token="[SEP]")
    config = library.PaliGemmaConfig(
        vision_config=library.SiglipVisionConfig(**_VISION, projection_dim=32),
        text_config=library.GemmaConfig(**_TEXT, vocab_size=len(tokenizer) + 1, head_dim=16, **_ids(tokenizer)),
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        **_ids(tokenizer),
    )
    images = library.SiglipImageProcessor(size=_square(_SIDE))
    images.image_seq_length = 16
    return _save(
        folder, seed, library.PaliGemmaForConditionalGeneration, config, library.PaliGemmaProcessor, images, tokenizer
    )


def tiny_instructblip(folder: Path, seed: int = 0) -> Path:
    """An InstructBlipForConditionalGeneration, whose Q-Former reads the question too."""
    library = _transformers()
    words = ["Describe", "image", "in", "one", "sentence"]
    tokenizer = word_tokenizer(["<image>"], words, bos_token="[CLS]", eos_token="[SEP]")
    qformer = word_tokenizer([], words)
    shape = {key: value for key, value in _TEXT.items() if key != "num_key_value_heads"}
    config = library.InstructBlipConfig(
        vision_config=_VISION,
        qformer_config={**shape, "vocab_size": len(qformer), "encoder_hidden_size": 32},
        text_config=library.OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=32,
            init_std=0.5,
            **_ids(tokenizer),
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = library.BlipImageProcessor(size=_square(_SIDE))
    _seeded(library.InstructBlipForConditionalGeneration, config, seed).save_pretrained(folder)
    library.InstructBlipProcessor(images, tokenizer, qformer, num_query_tokens=4).save_pretrained(folder)
    return folder


def tiny_smolvlm(folder: Path, seed: int = 0) -> Path:
    """A SmolVLMForConditionalGeneration, whose processor cuts an image into several."""
    library = _transformers()
    tokenizer = word_tokenizer(
        {
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
        bos_token="[CLS]",
        eos_token="[SEP]",
    )
    config = library.SmolVLMConfig(
        vision_config={**_VISION, "image_size": 32},
        text_config=library.LlamaConfig(**_TEXT, vocab_size=len(tokenizer), **_ids(tokenizer)),
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
        **_ids(tokenizer),
    )
    images = library.SmolVLMImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    videos = library.SmolVLMVideoProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    _seeded(library.SmolVLMForConditionalGeneration, config, seed).save_pretrained(folder)
    library.SmolVLMProcessor(
        images, tokenizer, videos, image_seq_len=4, chat_template=_CHAT.replace("MARK", "'<image>'")
    ).save_pretrained(folder)
    return folder


def tiny_qwen(folder: Path, seed: int = 0) -> Path:
    """A Qwen2_5_VLForConditionalGeneration, which takes each image at a size near its own."""
    library = _transformers()
    marks = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    tokenizer = word_tokenizer(marks, bos_token="[CLS]", eos_token="[SEP]")
    ids = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    config = library.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]},
            **_ids(tokenizer),
        },
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
    )
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    images = library.Qwen2VLImageProcessor(patch_size=8, size=pixels)
    videos = library.Qwen2VLVideoProcessor(patch_size=8, size=pixels)
    _seeded(library.Qwen2_5_VLForConditionalGeneration, config, seed).save_pretrained(folder)
    template = _CHAT.replace("MARK", "'<|vision_start|><|image_pad|><|vision_end|>'")
    library.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=template).save_pretrained(folder)
    return folder


def _save(folder: Path, seed: int, model: Any, config: Any, processor: Any, images: Any, tokenizer: Any) -> Path:
    _seeded(model, config, seed).save_pretrained(folder)
    processor(images, tokenizer).save_pretrained(folder)
    return folder


def _seeded(model: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(config).eval()


def _ids(tokenizer: Any) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _transformers() -> Any:
    """The library; its modules are loaded lazily and have no types for these."""
    import transformers

    return transformers
