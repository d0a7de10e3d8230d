import math

import pytest
import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline
from torch import nn

from stages.artifacts import BadInput, digest
from stages.diffusion.average import load_average, track_average
from stages.diffusion.batches import CaptionedTokens, ImageBatches, LatentBatches
from stages.diffusion.captions import Caption
from stages.diffusion.latent_model import build_scheduler, check_image_size, encode_images, standardize_latents
from stages.diffusion.objectives import reconstruction_objective, velocity_objective
from tests.tiny_generator import AUTOENCODER, DENOISER, tiny_autoencoder, tiny_generator


def test_the_saved_folder_is_a_standard_pipeline(tmp_path):
    generator = tiny_generator()
    generator.save(tmp_path / "one")
    generator.save(tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert not [p for p in (tmp_path / "one").rglob("*") if p.suffix in (".bin", ".pt", ".ckpt")]
    pipeline = AutoPipelineForText2Image.from_pretrained(tmp_path / "one")
    assert type(pipeline) is StableDiffusionPipeline
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a circle", num_inference_steps=2, height=16, width=16).images[0]
    assert picture.size == (16, 16)
    for mine, theirs in ((generator.denoiser.unet, pipeline.unet), (generator.autoencoder, pipeline.vae)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_standardized_latents_change_no_reconstruction():
    torch.manual_seed(1)
    autoencoder = tiny_autoencoder().double()
    with torch.no_grad():
        autoencoder.quant_conv.bias.copy_(torch.randn(8) * 2)
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    pixels, noise = images.double() / 127.5 - 1, torch.randn(12, 4, 8, 8, dtype=torch.float64)

    def decoded():
        posterior = autoencoder.encode(pixels).latent_dist
        return autoencoder.decode(posterior.mean + posterior.std * noise).sample

    with torch.no_grad():
        before = decoded()
        standardize_latents(autoencoder, autoencoder.encode(pixels).latent_dist.mean)
        after = decoded()
        means = autoencoder.encode(pixels).latent_dist.mean
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(means.mean((0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(means.std((0, 2, 3)), torch.ones(4).double())


def test_images_are_encoded_alike_in_any_batch():
    autoencoder = tiny_autoencoder()
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    (mean, std), (alone, _) = encode_images(autoencoder, images, 3), encode_images(autoencoder, images[5:6], 3)
    assert mean.shape == std.shape == (7, 4, 8, 8)
    torch.testing.assert_close(mean[5:6], alone)


def test_velocity_loss_against_its_definition():
    """Per image: rebuild z from the predicted velocity; the velocity error is the latents' error over 1 - a²."""
    scheduler = build_scheduler(DENOISER)
    alphas = scheduler.alphas_cumprod.double()
    torch.manual_seed(0)
    batch = {
        "latents": torch.randn(5, 4, 2, 2).double(),
        "noise": torch.randn(5, 4, 2, 2).double(),
        "timesteps": torch.tensor([0, 10, 300, 700, 999]),
        "tokens": torch.zeros(5, 3, dtype=torch.int64),
    }
    seen = {}

    class Guess(nn.Module):
        def forward(self, noisy, timesteps, tokens):
            seen["noisy"] = noisy
            return 0.3 * noisy

    values = velocity_objective(alphas, 5.0)(Guess(), batch)
    expected, plain = 0.0, 0.0
    for i, t in enumerate(batch["timesteps"].tolist()):
        a2 = float(alphas[t])
        noisy = math.sqrt(a2) * batch["latents"][i] + math.sqrt(1 - a2) * batch["noise"][i]
        torch.testing.assert_close(seen["noisy"][i], noisy)
        predicted = math.sqrt(a2) * noisy - math.sqrt(1 - a2) * (0.3 * noisy)  # z from v, Salimans and Ho
        error = (predicted - batch["latents"][i]).square().mean() / (1 - a2)
        expected += float(min(a2 / (1 - a2), 5.0) * (1 - a2) * error) / 5  # SNR + 1 = 1 / (1 - a²)
        plain += float(error) / 5
    assert float(values["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(values["error"]) == pytest.approx(plain, rel=1e-5)


def test_reconstruction_loss_against_torch():
    torch.manual_seed(0)
    images, mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)

    class Fixed(nn.Module):
        def forward(self, images, noise):
            return images + 0.5, mean, log_variance

    values = reconstruction_objective(0.1)(Fixed(), {"images": images, "noise": mean})
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum() / 96
    torch.testing.assert_close(values["divergence"], divergence)
    torch.testing.assert_close(values["loss"], 0.25 + 0.1 * divergence)


def test_average_is_the_recursion_and_survives_a_checkpoint():
    torch.manual_seed(0)
    network, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    track_average(optimizer, 0.5)
    expected = []
    for step in range(1, 8):
        if step == 4:  # as after a kill
            state = optimizer.state_dict()
            twin.load_state_dict(network.state_dict())
            network, optimizer = twin, torch.optim.AdamW(twin.parameters(), lr=0.1, fused=True)
            track_average(optimizer, 0.5)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        network(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        now = [p.detach().clone() for p in network.parameters()]
        decay = min(0.5, (1 + step) / (10 + step))
        old = expected or now
        expected = [decay * a + (1 - decay) * b for a, b in zip(old, now, strict=True)]
    load_average(network, optimizer)
    for parameter, average in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), average)


CAPTIONS = [Caption(i, f"text {i}", label, "train") for i, label in enumerate([0, 0, 1, 1, 1, 2])]


def test_images_get_captions_of_their_own_class():
    tokens = torch.arange(6)[:, None].repeat(1, 4)
    captioned = CaptionedTokens(tokens, torch.full((4,), 99), CAPTIONS, dropout=0.25)
    labels = torch.arange(3).repeat(2000)
    chosen = captioned(labels, torch.rand(6000, 2, generator=torch.Generator().manual_seed(0)))[:, 0]
    dropped = chosen == 99
    assert abs(dropped.double().mean() - 0.25) < 0.02
    of = torch.tensor([caption.label for caption in CAPTIONS])
    assert torch.equal(of[chosen[~dropped]], labels[~dropped])
    shares = chosen[~dropped].bincount(minlength=6).double() / (~dropped).sum()
    torch.testing.assert_close(shares, torch.tensor([1, 1, 2 / 3, 2 / 3, 2 / 3, 2]).double() / 6, atol=0.02, rtol=0)
    assert captioned(torch.tensor([2]), torch.tensor([[0.999999, 1.0]])).tolist() == [[5] * 4]


def test_batches_are_functions_of_step_and_rows():
    def order(step, rows):
        return torch.arange(rows.start, rows.stop) + step

    def draws(step):
        return torch.Generator().manual_seed(step)

    captioned = CaptionedTokens(torch.zeros(6, 4, dtype=torch.int64), torch.ones(4, dtype=torch.int64), CAPTIONS, 0.5)
    means = torch.randn(20, 4, 2, 2)
    labels = torch.arange(20) % 3
    latents = LatentBatches((means, torch.zeros_like(means)), labels, captioned, 1000, order, draws, 8)
    images = ImageBatches(torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8), (4, 2, 2), order, draws, 8)
    for batches in (latents, images):
        whole = batches(3, range(8))
        parts = [batches(3, range(0, 2)), batches(3, range(2, 8))]
        for key, values in whole.items():
            assert torch.equal(values, torch.cat([part[key] for part in parts])), key
        assert not torch.equal(batches(4, range(8))["noise"], whole["noise"])
    whole = latents(3, range(8))
    assert torch.equal(whole["latents"], means[3:11])
    assert whole["timesteps"].min() >= 0
    assert whole["timesteps"].max() < 1000
    assert images(0, range(8))["images"].abs().max() <= 1


def test_image_size_must_allow_the_halvings():
    check_image_size(16, AUTOENCODER, DENOISER)
    deep = DENOISER.model_copy(update={"block_channels": [8] * 4})
    with pytest.raises(BadInput, match=r"24 pixels wide.*multiple of 16"):
        check_image_size(24, AUTOENCODER, deep)
    with pytest.raises(BadInput, match=r"20 pixels wide.*multiple of 8"):
        check_image_size(20, AUTOENCODER, DENOISER)
