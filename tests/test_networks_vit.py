"""Vision transformers and their standard folders."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTModel

from stages.artifacts import BadInput, digest
from stages.encoder_sections import Backbone
from stages.networks import vit

SETTINGS = Backbone(patch_size=8, hidden_size=16, num_layers=2, num_heads=2, initializer_range=0.02)
NAMES = ("cat", "dog", "frog")


def images(count=4, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def published(folder, pooler=True, head=False, **processor):
    """A folder as the hub has them: a pooler or a head that we leave out, and an image processor."""
    config = ViTConfig(
        image_size=24, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(3)
    network = ViTForImageClassification(config) if head else ViTModel(config, add_pooling_layer=pooler)
    network.save_pretrained(folder)
    content = {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}, "resample": 2}
    content |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_resize": True, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(content | processor))
    return network.eval()


def test_equal_seeds_give_equal_weights_and_disturb_no_one():
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    first, again, other = (vit.build_encoder(SETTINGS, 16, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_encoder_gives_the_cls_token():
    encoder = vit.build_encoder(SETTINGS, 16, 0).eval()
    expected = encoder.network(pixel_values=images()).last_hidden_state[:, 0]
    assert encoder(images()).shape == (4, 16)
    assert torch.equal(encoder(images()), expected)


def test_a_saved_encoder_is_a_standard_folder_with_the_same_bytes_again(tmp_path):
    for name in ("one", "two"):
        vit.save(vit.build_encoder(SETTINGS, 16, 0), tmp_path / name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json"}
    opened = ViTModel.from_pretrained(tmp_path / "one", add_pooling_layer=False)
    expected = vit.build_encoder(SETTINGS, 16, 0).network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in opened.state_dict().items())


def test_a_classifier_starts_from_the_encoder_and_a_fresh_head(tmp_path):
    encoder = vit.build_encoder(SETTINGS, 16, 0).eval()
    vit.save(encoder, tmp_path / "encoder")
    classifier = vit.build_classifier(tmp_path / "encoder", NAMES, seed=1).eval()
    head = classifier.network.classifier
    assert head.out_features == len(NAMES)
    assert torch.equal(classifier(images()), head(encoder(images())))
    assert torch.equal(head.weight, vit.build_classifier(tmp_path / "encoder", NAMES, 1).network.classifier.weight)
    assert not torch.equal(head.weight, vit.build_classifier(tmp_path / "encoder", NAMES, 2).network.classifier.weight)

    vit.save(classifier, tmp_path / "classifier")
    loaded = vit.load_classifier(tmp_path / "classifier")
    assert not loaded.training
    assert torch.equal(loaded(images()), classifier(images()))
    vit.check_classes(loaded, NAMES, tmp_path)
    with pytest.raises(BadInput, match="knows the classes"):
        vit.check_classes(loaded, ("dog", "cat", "frog"), tmp_path)


def test_a_saved_classifier_needs_nothing_of_ours(tmp_path):
    """transformers' own processor and model give the logits that we give, to a pixel's rounding."""
    published(tmp_path / "hub")
    vit.save(vit.build_classifier(tmp_path / "hub", NAMES, 0).eval(), tmp_path / "classifier")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "classifier")
    network = ViTForImageClassification.from_pretrained(tmp_path / "classifier").eval()
    expected = network(**processor(images=Image.fromarray(pixels), return_tensors="pt")).logits
    ours = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert network.config.id2label == dict(enumerate(NAMES))
    torch.testing.assert_close(vit.load_classifier(tmp_path / "classifier")(ours), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("options", [{}, {"pooler": False}, {"head": True}])
def test_published_weights_with_their_own_image_processing(tmp_path, options):
    theirs = published(tmp_path, **options)
    encoder = vit.load_encoder(tmp_path)
    backbone = theirs.vit if "head" in options else theirs
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    expected = backbone(pixel_values=((images(size=24) + 1) / 2 - mean) / std).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(images(size=24)), expected)
    assert encoder(images(size=10)).shape == (4, 16), "resized to what the weights know"


def test_resizing_is_pils():
    processing = vit.ImageProcessing(24, [0.5] * 3, [0.5] * 3, resample=2)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR), dtype=np.float32)
    ours = processing(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
    difference = ((ours[0].permute(1, 2, 0) + 1) * 127.5 - torch.from_numpy(expected)).abs()
    assert difference.max() < 1.01, "PIL rounds after rows and again after columns"
    assert difference.mean() < 0.4


def test_layers_learn_at_their_own_rates():
    classifier = vit.ViTClassifier(
        ViTForImageClassification(
            ViTConfig(image_size=16, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                      num_attention_heads=2)
        ),
        vit.ImageProcessing(16, [0.5] * 3, [0.5] * 3, 2),
    )  # fmt: skip
    scale = vit.layer_rate_scale(classifier, 0.5)
    scales = {name: scale(name) for name, _ in classifier.named_parameters()}
    expected = {"embeddings": 1 / 8, "layers.0.": 1 / 4, "layers.1.": 1 / 2, "vit.layernorm": 1, "classifier": 1}
    for name, value in scales.items():
        (matching,) = {share for part, share in expected.items() if part in name}
        assert value == matching, name
    assert set(scales.values()) == set(expected.values())
    assert set(map(vit.layer_rate_scale(classifier, 1.0), scales)) == {1.0}


def test_recomputed_activations_change_nothing_but_memory(tmp_path):
    published(tmp_path)
    gradients = []
    for recompute in (False, True):
        classifier = vit.build_classifier(tmp_path, NAMES, 0).train()
        if recompute:
            classifier.checkpoint_activations()
        classifier(images(size=24)).square().sum().backward()
        gradients.append([parameter.grad for parameter in classifier.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert classifier.network.is_activation_checkpointing


def test_long_sequences_use_the_fused_kernel():
    short, long = (vit.build_encoder(SETTINGS, size, 0).network.config._attn_implementation for size in (16, 128))
    assert (short, long) == ("eager", "sdpa")


def test_what_is_no_vit_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no weights"):
        vit.load_encoder(tmp_path)
    published(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(BadInput, match="is a bert model"):
        vit.load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(BadInput, match="its weights lack"):
        vit.load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="its weights lack classifier"):
        vit.load_classifier(tmp_path)
    published(tmp_path, resample=1)
    with pytest.raises(BadInput, match="asks for a resampling"):
        vit.load_encoder(tmp_path)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="patch_size: 8 does not divide the images' 20 pixels"):
        vit.build_encoder(SETTINGS, 20, 0)
    with pytest.raises(BadInput, match="num_heads: 3 does not divide hidden_size 16"):
        vit.build_encoder(SETTINGS.model_copy(update={"num_heads": 3}), 16, 0)
