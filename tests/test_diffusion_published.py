"""Stable Diffusion's own layout at the least size: fetched, held to what is trusted, and sampled into shards."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from PIL import Image, JpegImagePlugin
from safetensors.torch import load_file

from stages import build_generator, config, fetch_data, generate_synthetic, write_captions
from stages.artifacts import BadInput, read_json, read_manifest
from stages.dataset import codec, shards
from stages.diffusion import published
from stages.diffusion.attention import choose_attention
from stages.diffusion.captions import Caption, read_captions
from stages.diffusion.plan import Shot, image_seed
from stages.diffusion.sampler import Sampler, open_pipeline
from stages.sections import Codec
from tests.closure import ROOT
from tests.loopback_hub import MODEL, environment, files_below, running
from tests.tiny import CLASSES, draw_pictures, tiny_profile
from tests.tiny_pipeline import DECOYS, SIDE, build_pipeline, publish

UNSAFE_ABOVE, BLANK_BELOW = 0.42, 94.5
TEXTS = [f"{article} {name}" for article in ("a", "the", "one") for name in CLASSES]


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """The published folder; its checker takes some of its images for unsafe."""
    folder = tmp_path_factory.mktemp("hub") / "stable-diffusion"
    pipeline = build_pipeline(TEXTS)
    with torch.no_grad():
        pipeline.safety_checker.concept_embeds_weights[0] = UNSAFE_ABOVE
    publish(pipeline, folder)
    return folder


def write_settings(folder, generator_path="profiles/no_local_generator", model=None, variant=None):
    """A study of JPEGs of 32 pixels, from images that the pipeline makes at twice that."""
    profile = tiny_profile()
    profile["fetch_data"].update(image_size=32, codec={"format": "jpeg", "quality": 75})
    profile["build_generator"] = {"mode": "hub", "model": model, "variant": variant}
    profile["generate_synthetic"].update(
        image_size=SIDE, num_inference_steps=3, blank_below_std=BLANK_BELOW, precision="float32"
    )
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    (folder / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(profile))
    study = yaml.safe_load((ROOT / "params.yaml").read_text())
    study.update(profile="tiny", dataset_path="pictures", generator_path=str(generator_path), sources=["real"])
    study.update(headline="real", guidance=3)
    (folder / "params.yaml").write_text(yaml.safe_dump(study))


@pytest.fixture(scope="module")
def study(tmp_path_factory, stable_diffusion):
    """The stages up to generation, from a local folder."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_pictures(folder / "pictures", size=32)
        write_settings(folder, stable_diffusion)
        for stage in (fetch_data, write_captions, build_generator, generate_synthetic):
            stage.main([])
    return folder


def test_the_folder_that_is_kept_holds_weights_and_settings_only(study, stable_diffusion):
    kept, there = files_below(study / "models" / "generator"), files_below(stable_diffusion)
    manifest = json.loads(kept.pop("manifest.json"))
    assert manifest["settings"] == {"mode": "hub", "model": None, "variant": None}
    halves = {name for name in there if ".fp16." in name}
    assert set(kept) == set(there) - set(DECOYS) - halves
    assert all(there[name] == content for name, content in kept.items())
    assert (study / "plots" / "build_generator").is_dir()


def test_the_hub_gives_the_same_folder_and_is_asked_for_nothing_else(tmp_path, study, stable_diffusion):
    """As a program: then the hub's address is the loopback server's."""
    write_settings(tmp_path, model=MODEL)
    command = [sys.executable, "-m", "stages.build_generator"]

    def build(server, **variables):
        settings = environment(tmp_path / "hf", server, **variables)
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)

    with running(files_below(stable_diffusion)) as hub:
        done = build(hub)
    assert done.returncode == 0, done.stderr
    fetched = files_below(tmp_path / "models" / "generator")
    assert json.loads(fetched.pop("manifest.json"))["settings"]["model"] == MODEL
    kept = files_below(study / "models" / "generator")
    del kept["manifest.json"]
    assert fetched == kept
    asked = {path.partition(f"{MODEL['revision']}/")[2] for path in hub.requests if "/resolve/" in path}
    assert asked == set(kept)
    refused = build(None, HF_HOME=str(tmp_path / "empty"))
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("ERROR")]
    assert "build_generator.model: can't fetch owner/tiny" in line
    assert files_below(tmp_path / "models" / "generator").keys() == {*kept, "manifest.json"}  # the earlier one stays


def test_a_variant_loses_its_name(tmp_path, stable_diffusion):
    published.check(stable_diffusion, "x", "fp16")
    published.copy(stable_diffusion, tmp_path / "generator", "fp16")
    assert not list((tmp_path / "generator").rglob("*fp16*"))
    weights = load_file(tmp_path / "generator" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    StableDiffusionPipeline.from_pretrained(tmp_path / "generator", local_files_only=True)


def judged(folder):
    """The slow reference: one prompt at a time through the pipeline's own call, and what becomes of its image."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="dpmsolver++", solver_order=2, steps_offset=1
    )
    checker, pipeline.safety_checker = pipeline.safety_checker, None  # or it would blacken what it finds

    def judge(text, seed):
        settings = {"guidance_scale": 3.0, "num_inference_steps": 3, "height": SIDE, "width": SIDE}
        image = pipeline(text, generator=torch.Generator().manual_seed(seed), **settings).images[0]
        views = pipeline.feature_extractor([image], return_tensors="pt").pixel_values
        _, (unsafe,) = checker(clip_input=views, images=[np.zeros(1)])
        blank = np.asarray(image).std() < BLANK_BELOW
        return image, "unsafe" if unsafe else "blank" if blank else "accepted"

    return judge


def test_images_are_sampled_large_and_stored_as_the_real_ones_are(study):
    judge = judged(study / "models" / "generator")
    codecs = set()
    for source in ("synthetic", "real"):
        for row in shards.read_rows(study / "data" / source, "train"):
            stored = Image.open(io.BytesIO(row.image))
            sampling = JpegImagePlugin.get_sampling(stored)
            codecs.add((stored.format, stored.size, stored.mode, sampling, tuple(stored.quantization[0][:4])))
            if source == "synthetic":
                image, verdict = judge(row.caption, row.seed)
                assert verdict == "accepted"
                assert image.size == (SIDE, SIDE)
                again = codec.decode(codec.encode(codec.resize(image, 32), codec_of(study)))
                assert np.abs(np.asarray(stored).astype(int) - np.asarray(again)).mean() < 0.5
    assert codecs == {("JPEG", (32, 32), "RGB", 2, (8, 6, 5, 8))}  # quality 75, 4:2:0


def codec_of(study):
    return Codec.model_validate(read_manifest(study / "data" / "real")["codec"])


def test_unsafe_and_blank_images_are_replaced_and_listed(study):
    judge = judged(study / "models" / "generator")
    captions = {c.caption_id: c for c in read_captions(study / "data" / "captions.tsv", CLASSES)}
    listed = read_manifest(study / "data" / "synthetic")["rejected"]
    reasons = [entry["reason"] for entry in listed]
    assert {"unsafe", "blank"} == set(reasons)
    for entry in listed:
        seed = image_seed(0, entry["caption_id"], entry["sample_index"])
        assert judge(captions[entry["caption_id"]].text, seed)[1] == entry["reason"]
    told = read_json(study / "metrics" / "generate_synthetic.json")
    assert told["rejected"] == {reason: reasons.count(reason) for reason in ("blank", "unsafe")}
    made: dict[int, set[int]] = {}
    for name in ("train", "val"):
        for row in shards.read_rows(study / "data" / "synthetic", name):
            made.setdefault(row.caption_id, set()).add(row.settings["sample_index"])
    for entry in listed:
        made[entry["caption_id"]].add(entry["sample_index"])
    assert all(indices == set(range(len(indices))) for indices in made.values())  # the next index each time
    assert told["images"]["train"]["per_class"] == dict.fromkeys(CLASSES, 14)


def test_an_unsafe_image_is_kept_as_it_was_made(study):
    """The checker blackens in place, and a black image is blank: verdicts would depend on which is asked first."""
    settings = yaml.safe_load((study / "profiles" / "tiny.yaml").read_text())["generate_synthetic"]
    listed = read_manifest(study / "data" / "synthetic")["rejected"]
    entry = next(entry for entry in listed if entry["reason"] == "unsafe")
    caption = read_captions(study / "data" / "captions.tsv", CLASSES)[entry["caption_id"]]
    pipeline = open_pipeline(study / "models" / "generator", torch.float32, torch.device("cpu"))
    sampler = Sampler(pipeline, 3.0, 3, settings["batch_size"], SIDE)
    seed = image_seed(0, caption.caption_id, entry["sample_index"])
    ((image, unsafe),) = sampler.images([Shot(caption, entry["sample_index"], seed)])
    assert unsafe
    assert np.asarray(image).std() > 50


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "model_index.json").unlink(), "is not a diffusers pipeline"),
        (lambda f: (f / "model_index.json").write_text("[1]"), "is not a diffusers pipeline"),
        (lambda f: edit(f / "model_index.json", _class_name="FluxPipeline"), "is a FluxPipeline, not a Stable"),
        (lambda f: edit(f / "model_index.json", _class_name=["pipeline", "Mine"]), "code of its own .pipeline"),
        (lambda f: edit(f / "model_index.json", unet=["mine", "Unet"]), r"code of its own .unet: mine\.Unet"),
        (lambda f: edit(f / "model_index.json", extra=["diffusers", "UNet2DModel"]), "code of its own .extra"),
        (lambda f: edit(f / "model_index.json", unet=[None, None]), "code of its own .unet"),
        (lambda f: edit(f / "model_index.json", text_encoder=["transformers", "T5EncoderModel"]), "must be CLIPText"),
        (
            lambda f: edit(f / "model_index.json", image_encoder=["transformers", "X"]),
            "must be none",
        ),
        (lambda f: edit(f / "model_index.json", vae=7), "has no vae in its model_index.json"),
        (lambda f: edit(f / "unet" / "config.json", auto_map={"AutoModel": "x.Y"}), "code of its own .auto_map"),
        (lambda f: (f / "vae" / "config.json").unlink(), "has no vae/config.json"),
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            r"has no unet/diffusion_pytorch_model\.safetensors .*pytorch_model\.bin.*pickles are never",
        ),
        (lambda f: (f / "text_encoder" / "model.safetensors").write_bytes(b"cut"), "damaged text_encoder/model"),
    ],
)
def test_what_can_not_be_trusted_is_refused_by_name(tmp_path, monkeypatch, stable_diffusion, spoil, words):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stable_diffusion, "mine")
    write_settings(Path(), "mine")
    spoil(Path("mine"))
    with pytest.raises(BadInput, match=f"generator_path: mine .*{words}") as caught:
        build_generator.main([])
    assert "\n" not in str(caught.value)
    assert not Path("models").exists()


def test_without_a_checker_every_image_is_safe(tmp_path, monkeypatch, stable_diffusion):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stable_diffusion, "mine")
    shutil.rmtree("mine/safety_checker")
    edit(Path("mine/model_index.json"), safety_checker=[None, None], feature_extractor=[None, None])
    write_settings(Path(), "mine")
    build_generator.main([])
    assert not Path("models/generator/safety_checker").exists()
    pipeline = open_pipeline(Path("models/generator"), torch.float32, torch.device("cpu"))
    ((_, unsafe),) = Sampler(pipeline, 3.0, 3, 1, SIDE).images([Shot(Caption(0, "a circle", 0, "train"), 0, 0)])
    assert not unsafe


def test_generator_path_is_held_to_the_profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_settings(Path())
    study = config.load_study()
    with pytest.raises(BadInput, match=r"names nothing local, and build_generator\.model .* is null"):
        config.check(study, config.load_profile("tiny"))
    with pytest.raises(BadInput, match=r"build_generator\.model: null"):
        build_generator.main([])
    profile = tiny_profile()
    Path("profiles/tiny.yaml").write_text(yaml.safe_dump(profile))
    with pytest.raises(BadInput, match="generator_path: names a folder, but profile tiny trains its generator"):
        config.check(study.model_copy(update={"generator_path": "mine"}), config.load_profile("tiny"))


@pytest.mark.parametrize(("side", "fused"), [(8, False), (64, True)])
def test_attention_is_fused_at_stable_diffusion_s_size(side, fused):
    """Plain attention over 64 x 64 latents would hold a matrix of 4,096 x 4,096 for each head and image."""
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    small = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2}
    unet = UNet2DConditionModel(sample_size=side, cross_attention_dim=8, **blocks, **small)
    choose_attention(unet)
    assert {type(processor) for processor in unet.attn_processors.values()} == {
        AttnProcessor2_0 if fused else AttnProcessor
    }
