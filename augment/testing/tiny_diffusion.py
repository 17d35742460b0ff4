"""Tiny untrained diffusion pipelines of the real classes, saved to a folder in the same layout as on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from augment.testing.tiny_tokenizer import word_tokenizer

_WIDTH = 32
# Stable Diffusion's own noise levels.
_BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def tiny_stable_diffusion(folder: Path, seed: int = 0) -> Path:
    """A StableDiffusionPipeline without a safety checker: latents at an eighth of the size, 64×64 pixels by default."""
    library = _diffusers()

    return _save_stable_diffusion(library.StableDiffusionPipeline, folder, seed, channels=4)


def tiny_inpaint(folder: Path, seed: int = 0) -> Path:
    """A StableDiffusionInpaintPipeline. Its UNet takes 9 channels: latents, mask, and the masked image's latents."""
    library = _diffusers()

    return _save_stable_diffusion(library.StableDiffusionInpaintPipeline, folder, seed, channels=9)


def tiny_sd_turbo(folder: Path, seed: int = 0) -> Path:
    """SD Turbo: as `tiny_stable_diffusion`, with the scheduler that SD Turbo is saved with."""
    tiny_stable_diffusion(folder, seed)
    return _with_scheduler(folder, "EulerDiscreteScheduler", timestep_spacing="trailing", steps_offset=1)


def tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """A StableDiffusionXLPipeline with two text encoders and the scheduler of SDXL's base model."""
    library = _diffusers()
    from transformers import CLIPTextModelWithProjection

    tokenizer, text_config = _clip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        from transformers import CLIPTextModel

        first, second = CLIPTextModel(text_config), CLIPTextModelWithProjection(text_config)
        unet = _unet(
            4,
            cross_attention_dim=2 * _WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + _WIDTH,
            transformer_layers_per_block=(1, 1),
        )
        vae = _vae()
    with _silence():
        library.StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=first,
            text_encoder_2=second,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=library.EulerDiscreteScheduler(**_BETAS, timestep_spacing="leading"),
        ).save_pretrained(folder)
    return folder


def tiny_sdxl_turbo(folder: Path, seed: int = 0) -> Path:
    """SDXL Turbo: as `tiny_sdxl`, with the scheduler that SDXL Turbo is saved with."""
    tiny_sdxl(folder, seed)
    return _with_scheduler(folder, "EulerAncestralDiscreteScheduler", timestep_spacing="trailing")


def tiny_flux(folder: Path, seed: int = 0, dev: bool = False) -> Path:
    """A FluxPipeline as FLUX.1 schnell; as dev it takes its guidance as an input."""
    library = _diffusers()
    from transformers import CLIPTextModel, T5Config, T5EncoderModel

    tokenizer, text_config = _clip()
    words = word_tokenizer(model_max_length=512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = library.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=_WIDTH,
            pooled_projection_dim=_WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=dev,
        )
        encoder = T5EncoderModel(
            T5Config(vocab_size=len(words), d_model=_WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
        )
        first, vae = CLIPTextModel(text_config), _vae(shift_factor=0.1159)
    with _silence():
        library.FluxPipeline(
            scheduler=library.FlowMatchEulerDiscreteScheduler(
                shift=3.0 if dev else 1.0, use_dynamic_shifting=dev, base_shift=0.5, max_shift=1.15
            ),
            vae=vae,
            text_encoder=first,
            tokenizer=tokenizer,
            text_encoder_2=encoder,
            tokenizer_2=words,
            transformer=transformer,
        ).save_pretrained(folder)
    return folder


def tiny_controlnet(folder: Path, base: Path, seed: int = 0) -> Path:
    """A ControlNet for the Stable Diffusion or SDXL in `base`. New ones have no effect at all, because their last
    layers are zero; this one has some."""
    library = _diffusers()

    with torch.random.fork_rng(devices=[]), _silence():
        torch.manual_seed(seed)
        unet = library.UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        net = library.ControlNetModel.from_unet(unet)
        for parameter in net.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        net.save_pretrained(folder)
    return folder


def _save_stable_diffusion(pipeline: Any, folder: Path, seed: int, channels: int) -> Path:
    library = _diffusers()
    from transformers import CLIPTextModel

    tokenizer, text_config = _clip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(text_config)
        unet = _unet(channels, cross_attention_dim=_WIDTH)
        vae = _vae()
    with _silence():
        pipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            # Stable Diffusion 1.5's own scheduler and settings.
            scheduler=library.PNDMScheduler(**_BETAS, skip_prk_steps=True, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def _clip() -> tuple[Any, Any]:
    """A CLIPTokenizer that knows every byte, inside a word and at its end, without merges: one token per letter; and
    the CLIPTextConfig for it."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=_WIDTH,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77), config


def _unet(channels: int, **options: Any) -> Any:
    library = _diffusers()

    return library.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **options,
    )


def _vae(**options: Any) -> Any:
    library = _diffusers()

    return library.AutoencoderKL(
        sample_size=64,
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **options,
    )


def _with_scheduler(folder: Path, name: str, **options: Any) -> Path:
    """The same pipeline with another scheduler."""
    getattr(_diffusers(), name)(**_BETAS | options).save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    components = json.loads(index.read_bytes())
    index.write_text(json.dumps(components | {"scheduler": ["diffusers", name]}))
    return folder


def _diffusers() -> Any:
    """The library; its modules are loaded lazily and have no types."""
    import diffusers

    return diffusers


def _silence() -> Any:
    from augment.models.quiet import quiet

    return quiet("diffusers", "transformers")
