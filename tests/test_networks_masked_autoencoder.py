import math

import pytest
import torch
from transformers.models.vit_mae.configuration_vit_mae import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTraining

from stages.encoder_sections import Backbone
from stages.networks import vit
from stages.networks.masked_autoencoder import MaskedAutoencoder
from stages.training.mae import mask_noise, reconstruction_loss
from tests.rivals import MAE


@pytest.fixture
def masked():
    torch.manual_seed(0)
    backbone = Backbone(patch_size=4, hidden_size=16, num_layers=2, num_heads=2, initializer_range=0.02)
    return MaskedAutoencoder(vit.build_encoder(backbone, 16, seed=0), MAE)


@pytest.mark.parametrize("normalize", [False, True])
def test_transformers_own_masked_autoencoder_gives_the_same_loss(masked, normalize):
    config = ViTMAEConfig(
        image_size=16, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32,
        mask_ratio=0.75, norm_pix_loss=normalize,
    )  # fmt: skip
    reference = ViTMAEForPreTraining(config)
    reference.vit.load_state_dict(masked.encoder.network.state_dict())
    reference.decoder.load_state_dict(masked.decoder.state_dict())
    images, noise = torch.rand(3, 3, 16, 16) * 2 - 1, mask_noise(0, 0, range(3), 16)
    expected = reference(images, noise=noise)
    predictions, patches, mask = masked(images, noise)
    torch.testing.assert_close(predictions, expected.logits)
    torch.testing.assert_close(patches, reference.patchify(images))
    assert torch.equal(mask, expected.mask.bool())
    torch.testing.assert_close(reconstruction_loss(predictions, patches, mask, normalize), expected.loss)


def test_positions_are_the_sines_of_the_release(masked):
    ours = masked.decoder.decoder_pos_embed.clone()
    masked.decoder.initialize_weights(16)  # transformers' own, which its constructor overwrites with zeros
    torch.testing.assert_close(ours, masked.decoder.decoder_pos_embed.data)
    positions = masked.encoder.network.embeddings.position_embeddings[0]
    assert not positions[0].any()
    assert len(positions.unique(dim=0)) == 17
    for row, column in ((0, 3), (2, 1)):
        expected = [
            wave(place / 10_000 ** (k / 4))
            for place in (column, row)
            for wave in (math.sin, math.cos)
            for k in range(4)
        ]
        assert positions[1 + 4 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_gradients_are_of_ordinary_size(masked):
    images, noise = torch.rand(4, 3, 16, 16) * 2 - 1, mask_noise(0, 0, range(4), 16)
    reconstruction_loss(*masked(images, noise), normalize_patches=True).backward()
    assert max(float(p.grad.abs().max()) for p in masked.parameters() if p.grad is not None) < 10


def test_what_can_be_inferred_is_learned(masked):
    """Images of one colour each: their variance, a third, is what painting the mean would leave."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in masked.parameters() if p.requires_grad], lr=0.01, betas=(0.9, 0.95))
    losses = []
    for step in range(120):
        images = (torch.rand(32, 3, 1, 1, generator=generator) * 2 - 1).expand(-1, -1, 16, 16)
        loss = reconstruction_loss(*masked(images, mask_noise(0, step, range(32), 16)), normalize_patches=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert float(torch.stack(losses[-10:]).mean()) < 0.05


def test_what_is_hidden_reaches_no_prediction(masked):
    images, noise = torch.rand(2, 3, 16, 16), mask_noise(0, 0, range(2), 16)
    predictions, patches, mask = masked(images, noise)
    assert mask.sum(dim=1).tolist() == [12, 12]
    hidden = mask.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    again, other_patches, _ = masked(torch.where(hidden, -images, images), noise)
    assert torch.equal(again, predictions)
    assert not torch.equal(other_patches, patches)


def test_the_encoder_is_trained_in_place_and_its_positions_stay(masked):
    images, noise = torch.rand(2, 3, 16, 16), mask_noise(0, 0, range(2), 16)
    reconstruction_loss(*masked(images, noise), normalize_patches=True).backward()
    without = {name for name, p in masked.named_parameters() if p.grad is None}
    assert without == {"encoder.network.embeddings.position_embeddings", "decoder.decoder_pos_embed"}


def test_masks_follow_from_seed_step_and_position():
    whole = mask_noise(3, 5, range(8), 16)
    assert torch.equal(torch.cat([mask_noise(3, 5, range(4), 16), mask_noise(3, 5, range(4, 8), 16)]), whole)
    assert not torch.equal(mask_noise(3, 6, range(8), 16), whole)
    assert not torch.equal(mask_noise(4, 5, range(8), 16), whole)
    assert len(whole.unique()) > 100


@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_the_mean_over_hidden_patches_whatever_the_order_of_images(normalize):
    generator = torch.Generator().manual_seed(1)
    predictions, patches = torch.randn(2, 5, 6, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, 6, generator=generator).argsort(1) < 4
    total = 0.0
    for image, place in mask.nonzero().tolist():
        wanted = patches[image, place].tolist()
        if normalize:  # unbiased, as in the release
            mean = sum(wanted) / 4
            deviation = math.sqrt(sum((w - mean) ** 2 for w in wanted) / 3 + 1e-6)
            wanted = [(w - mean) / deviation for w in wanted]
        pairs = zip(predictions[image, place].tolist(), wanted, strict=True)
        total += sum((p - w) ** 2 for p, w in pairs) / 4
    loss = reconstruction_loss(predictions, patches, mask, normalize)
    assert float(loss) == pytest.approx(total / 20, rel=1e-12)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = reconstruction_loss(predictions[order], patches[order], mask[order], normalize)
    torch.testing.assert_close(shuffled, loss)
