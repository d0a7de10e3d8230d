"""A real, small `StableDiffusionPipeline` folder, laid out and named like `stable-diffusion-v1-5` on the hub.

Like there, the tokenizer is a vocabulary and merges, text encoder and safety checker name their weights as
transformers did before version 5, the autoencoder's attention as diffusers did before version 0.13, the scheduler is
PNDM, and beside the safetensors lie their half precision variants, pickles, weights without EMA, and code.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel

from stages.diffusion.tokenizer import build_tokenizer

SIDE = 64
"""What it makes images of, in pixels; latents have an eighth of that, as Stable Diffusion's."""
DECOYS = {
    "v1-5-pruned.safetensors": b"another copy of everything",
    "v1-5-pruned-emaonly.ckpt": b"a pickle",
    "unet/diffusion_pytorch_model.bin": b"a pickle",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"weights before averaging",
    "text_encoder/pytorch_model.fp16.bin": b"a pickle",
    "pipeline.py": b"raise SystemExit",
    "README.md": b"---\nlicense: creativeml-openrail-m\n---\n",
}


def build_pipeline(texts: list[str]) -> StableDiffusionPipeline:
    """Every component at its least size, initialised at seed 0; scaled up so that images vary with seed and text."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(texts)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    length = tokenizer.model_max_length
    text_config = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=length, **small, **ids)
    vae = AutoencoderKL(
        sample_size=SIDE,
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vision = {**small, "image_size": 16, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    with torch.no_grad():
        unet.conv_out.weight.mul_(3)
        vae.decoder.conv_out.weight.mul_(6)
        checker.concept_embeds.normal_()
        checker.concept_embeds_weights.fill_(2)  # a cosine never gets there
        checker.special_care_embeds_weights.fill_(2)
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text_config).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
            set_alpha_to_one=False,
        ),
        safety_checker=checker.eval(),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )


def publish(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Saves a pipeline as the hub has Stable Diffusion v1-5, with both precisions and everything that lies there."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    tokens = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokens["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokens["merges"]]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    rename(folder / "text_encoder" / "model.safetensors", "", "text_model.")
    rename(folder / "safety_checker" / "model.safetensors", "vision_model.", "vision_model.vision_model.")
    attention = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in attention.items():
        rename(folder / "vae" / "diffusion_pytorch_model.safetensors", f"attentions.0.{new}.", f"attentions.0.{old}.")
    for weights in [*folder.glob("*/*model.safetensors")]:
        tensors = load_file(weights)
        half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        save_file(half, weights.with_name(f"{weights.stem}.fp16.safetensors"), {"format": "pt"})
    for name, content in DECOYS.items():
        (folder / name).write_bytes(content)


def rename(weights: Path, new: str, old: str) -> None:
    """Gives weights an older version's names: those that have `new` in them get `old` for it."""
    tensors = {
        (name.replace(new, old, 1) if new else old + name) if new in name else name: value
        for name, value in load_file(weights).items()
    }
    assert any(old in name for name in tensors)
    save_file(tensors, weights, {"format": "pt"})
