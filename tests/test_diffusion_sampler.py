import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image

from stages.artifacts import BadInput
from stages.diffusion import rounds
from stages.diffusion.captions import Caption
from stages.diffusion.grid import evenly, sample_grid
from stages.diffusion.plan import Shot, image_seed
from stages.diffusion.sampler import Sampler, open_pipeline
from stages.diffusion.spread import run_each
from tests.closure import ROOT
from tests.tiny_generator import DENOISER, tiny_generator

CPU = torch.device("cpu")
CAPTIONS = [Caption(0, "a circle", 0, "train"), Caption(1, "the square", 1, "train")]
SHOTS = [Shot(caption, i, image_seed(0, caption.caption_id, i)) for caption in CAPTIONS for i in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    tiny_generator().save(folder)
    return folder


def sampler(folder, guidance=3.0, batch_size=4, dtype=torch.float32):
    torch.set_num_threads(1)
    return Sampler(open_pipeline(folder, dtype, CPU), guidance, num_steps=3, batch_size=batch_size, image_size=16)


def pixels(made):
    return np.stack([np.asarray(image).astype(int) for image, _ in made])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_images_are_those_of_the_plain_pipeline(folder, guidance):
    """The slow reference: one prompt at a time through `StableDiffusionPipeline.__call__`."""
    made = pixels(sampler(folder, guidance).images(SHOTS[:4]))
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for shot, mine in zip(SHOTS, made, strict=False):
        generator = torch.Generator().manual_seed(shot.seed)
        plain = pipeline(
            shot.caption.text,
            generator=generator,
            guidance_scale=guidance,
            num_inference_steps=3,
            height=16,
            width=16,
        )
        assert np.abs(np.asarray(plain.images[0]).astype(int) - mine).max() <= 1


def test_guidance_is_extrapolation_from_the_empty_prompt(folder):
    """The first step's estimate at w is eps(z) + w·(eps(z, t) - eps(z)), computed here by hand."""
    pipeline = open_pipeline(folder, torch.float32, CPU)
    seen = {}
    step = pipeline.scheduler.step

    def spy(estimate, timestep, latents, **kwargs):
        seen.setdefault("first", (estimate.clone(), timestep, latents.clone()))
        return step(estimate, timestep, latents, **kwargs)

    pipeline.scheduler.step = spy
    Sampler(pipeline, 4.0, 3, 1, 16).images(SHOTS[:1])
    estimate, timestep, latents = seen["first"]
    generator = torch.Generator().manual_seed(SHOTS[0].seed)
    torch.testing.assert_close(latents, torch.randn(1, 4, 8, 8, generator=generator))
    with torch.no_grad():
        ids = pipeline.tokenizer(["", "a circle"], padding="max_length", return_tensors="pt").input_ids
        hidden = pipeline.text_encoder(ids)[0]
        empty, text = (pipeline.unet(latents, timestep, h[None], return_dict=False)[0] for h in hidden)
    assert (text - empty).abs().max() > 1e-3
    torch.testing.assert_close(estimate, empty + 4.0 * (text - empty), atol=1e-4, rtol=1e-4)


def test_guidance_and_text_and_seed_all_matter(folder):
    strong, weak = pixels(sampler(folder, 8.0).images(SHOTS[:4])), pixels(sampler(folder, 2.0).images(SHOTS[:4]))
    assert np.abs(strong - weak).max() > 2
    assert len({image.tobytes() for image in weak}) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_made_alone_is_the_same(folder, dtype):
    together = pixels(sampler(folder, dtype=dtype).images(SHOTS[:4]))
    alone = pixels(sampler(folder, dtype=dtype).images([SHOTS[2]]))
    assert np.abs(together[2] - alone[0]).max() <= 1
    assert alone.shape == (1, 16, 16, 3)


def test_compiled_images_are_close_to_uncompiled_ones(tmp_path):
    """On one resolution, since each costs the compiler seconds."""
    tiny_generator(DENOISER.model_copy(update={"block_channels": [16]})).save(tmp_path)
    plain, compiled = sampler(tmp_path), sampler(tmp_path)
    compiled.compile(tmp_path / "cache")
    difference = np.abs(pixels(plain.images(SHOTS[:4])) - pixels(compiled.images(SHOTS[:4])))
    assert difference.max() <= 1


def test_without_a_compiler_one_line_says_so(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    plain, fallback = sampler(folder), sampler(folder)
    fallback.compile(tmp_path)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "no C++ compiler" in err
    assert np.array_equal(pixels(plain.images(SHOTS[:4])), pixels(fallback.images(SHOTS[:4])))


def test_any_scheduler_of_a_folder_becomes_the_deterministic_solver(folder, tmp_path):
    """Stable Diffusion v1-5's folder names PNDM; a stochastic solver would make images irreproducible."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True, steps_offset=1)
    pipeline.save_pretrained(tmp_path)
    scheduler = open_pipeline(tmp_path, torch.float32, CPU).scheduler
    assert type(scheduler) is DPMSolverMultistepScheduler
    assert (scheduler.config.algorithm_type, scheduler.config.prediction_type) == ("dpmsolver++", "v_prediction")
    assert scheduler.config.beta_end == pytest.approx(0.012)


def test_what_is_no_pipeline_is_one_clear_line(folder, tmp_path):
    with pytest.raises(BadInput, match="is not a diffusers pipeline"):
        open_pipeline(tmp_path, torch.float32, CPU)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(BadInput, match="is a FluxPipeline"):
        open_pipeline(tmp_path, torch.float32, CPU)
    (tmp_path / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(BadInput, match="can't be opened") as caught:
        open_pipeline(tmp_path, torch.float32, CPU)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- rounds


def colour(shot, value=None):
    """A flat image of the shot's own shade, with one white pixel unless it shall be blank."""
    image = Image.new("RGB", (4, 4), (shot.seed % 200,) * 3)
    if value is not None:
        image.putpixel((0, 0), (value,) * 3)
    return image


def encode(image):
    return np.asarray(image).tobytes()


def made_with(bad, state, log):
    """All of SHOTS, where those in `bad` (caption id, sample index) are blank or unsafe."""

    def render(batch):
        verdicts = [bad.get((shot.caption.caption_id, shot.sample_index)) for shot in batch]
        return [(colour(s, None if v == "blank" else 255), v == "unsafe") for s, v in zip(batch, verdicts, strict=True)]

    def make(batches):
        for path, batch in batches:
            if not path.exists():
                log.append([(shot.caption.caption_id, shot.sample_index) for shot in batch])
                rounds.develop(batch, render, encode, 4.0).save(path)

    return rounds.make_all(SHOTS, 4, 0, state, make)


def test_blank_and_unsafe_images_are_replaced(tmp_path):
    log = []
    bad = {(0, 1): "blank", (1, 0): "unsafe", (1, 3): "blank"}
    result = made_with(bad, tmp_path, log)
    where = {(s.caption.caption_id, s.sample_index) for s in result.accepted}
    assert where == {(0, 0), (0, 2), (0, 3), (1, 1), (1, 2), (1, 4)}
    assert {(s.caption.caption_id, s.sample_index): v for s, v in result.rejected.items()} == bad
    assert log == [[(0, 0), (0, 1), (0, 2), (1, 0)], [(1, 1), (1, 2)], [(0, 3), (1, 3)], [(1, 4)]]
    for shot, content in result.images(sorted(result.accepted, key=lambda s: s.seed)):
        assert content == encode(colour(shot, 255))


def test_a_killed_run_goes_on_at_the_first_unfinished_batch(tmp_path):
    whole = made_with({(0, 1): "blank"}, tmp_path / "whole", log := [])
    assert len(log) == 3
    made_with({(0, 1): "blank"}, tmp_path / "killed", [])
    (tmp_path / "killed" / "00-000001.npz").unlink()
    again = made_with({(0, 1): "blank"}, tmp_path / "killed", log := [])
    assert log == [[(1, 1), (1, 2)]]
    assert list(again.accepted) == list(whole.accepted)
    assert list(again.images(list(again.accepted))) == list(whole.images(list(whole.accepted)))


def test_a_generator_that_makes_nothing_good_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="20 images of the caption 'a circle' in a row were blank"):
        made_with({(0, i): "blank" for i in range(100)}, tmp_path, [])


def test_forked_workers_make_the_same_batches(folder, tmp_path):
    """Equal bytes for one process and for two, through the real sampler."""
    contents = []
    for workers in (1, 2):
        state = tmp_path / str(workers)
        render = sampler(folder).images

        def make(batches, render=render, workers=workers):
            def task(i):
                path, batch = batches[i]
                rounds.develop(batch, render, encode, 0.0).save(path)

            run_each(task, range(len(batches)), workers, "batches")

        result = rounds.make_all(SHOTS, 4, 0, state, make)
        contents.append([(shot.seed, image) for shot, image in result.images(SHOTS)])
    assert contents[0] == contents[1]
    assert len({image for _, image in contents[0]}) == len(SHOTS)


def test_a_worker_s_complaint_arrives():
    def task(index):
        if index == 1:
            raise BadInput(f"{os.getpid()}: no")

    with pytest.raises(BadInput, match="no") as caught:
        run_each(task, range(4), 2, "batches")
    assert not str(caught.value).startswith(str(os.getpid()))


def test_workers_die_with_their_parent(tmp_path):
    code = (
        "import os, time, pathlib; from stages.diffusion.spread import run_each\n"
        "def task(i): pathlib.Path(str(os.getpid())).touch(); time.sleep(60)\n"
        "run_each(task, range(2), 2, 'x')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = [int(p.name) for p in tmp_path.iterdir()]
    assert len(children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---------------------------------------------------------------------------------------------------------- grid


def test_grid_shows_every_image_in_its_place():
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    content = sample_grid([("0 real", images[:2]), ("0 synthetic", images[2:])])
    assert content == sample_grid([("0 real", images[:2]), ("0 synthetic", images[2:])])
    import io

    shown = np.asarray(Image.open(io.BytesIO(content)))
    assert shown.shape == (2 * 66, 120 + 2 * 66, 3)
    assert np.array_equal(shown[:64:2, 120 + 66 : 120 + 66 + 64 : 2], images[1].permute(1, 2, 0))
    assert np.array_equal(shown[66:130:2, 120:184:2], images[2].permute(1, 2, 0))
    assert evenly(torch.arange(10), 3).tolist() == [0, 3, 6]
    assert evenly(torch.arange(2), 5).tolist() == [0, 1]
