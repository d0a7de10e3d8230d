"""The text encoder beside an image encoder, and what it leaves on disk."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from stages.artifacts import digest
from stages.diffusion.tokenizer import build_tokenizer
from stages.networks import language
from stages.training.optimizer import parameter_groups
from tests.rivals import LANGUAGE

TEXTS = ["one digit", "a picture of the digit", "two"]


@pytest.fixture
def tokenizer():
    tokenizer = build_tokenizer(TEXTS)
    tokenizer.model_max_length = LANGUAGE.context_length
    return tokenizer


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    text = language.TextEncoder(LANGUAGE, tokenizer).eval()
    return language.ImageTextModel(nn.Flatten(), 12, text, LANGUAGE, head=None)


def tokens_of(tokenizer, texts, **options):
    return tokenizer(texts, return_tensors="pt", truncation=True, **options).input_ids


def test_padding_changes_no_text(model, tokenizer):
    together = model.text_encoder(tokens_of(tokenizer, TEXTS, padding=True))
    for text, features in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(model.text_encoder(tokens_of(tokenizer, [text]))[0], features)
    filled = model.text_encoder(tokens_of(tokenizer, TEXTS, padding="max_length"))
    torch.testing.assert_close(filled, together)
    assert tokens_of(tokenizer, TEXTS, padding="max_length").shape == (3, LANGUAGE.context_length)


def test_the_feature_is_that_of_the_end_of_the_text(model, tokenizer):
    """Attention is causal, so the end alone sees every word; what came before it differs from text to text."""
    one, other = (model.text_encoder(tokens_of(tokenizer, [text])) for text in ("one digit", "two digit"))
    assert not torch.allclose(one, other, atol=1e-4)
    network = model.text_encoder.network
    tokens = tokens_of(tokenizer, TEXTS[:1])
    hidden = network(input_ids=tokens).last_hidden_state  # normed
    assert int(tokens[0, -1]) == tokenizer.eos_token_id
    torch.testing.assert_close(network.text_projection(hidden[:, -1]), model.text_encoder(tokens))


def test_the_temperature_starts_at_that_of_clip_and_does_not_decay(model):
    assert float(model.log_scale.detach()) == pytest.approx(math.log(1 / 0.07))
    groups = parameter_groups(model, 0.1)
    (decay,) = (g["weight_decay"] for g in groups if any(p is model.log_scale for p in g["params"]))
    assert decay == 0


def test_the_folder_opens_in_transformers_and_gives_the_same_features(model, tokenizer, tmp_path):
    for name in ("one", "two"):
        language.save(tmp_path / name, model.text_encoder, tokenizer, model.visual_projection)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    network = CLIPTextModelWithProjection.from_pretrained(tmp_path / "one/text").eval()
    again = AutoTokenizer.from_pretrained(tmp_path / "one/text")
    assert again.model_max_length == LANGUAGE.context_length
    texts = [*TEXTS, "never seen before, and far longer than the context of the text encoder"]
    inputs = again(texts, padding=True, truncation=True, return_tensors="pt")
    expected = model.text_encoder(tokens_of(tokenizer, texts, padding=True))
    torch.testing.assert_close(network(**inputs).text_embeds, expected)
    images = torch.rand(2, 12)
    weight = load_file(tmp_path / "one/visual_projection.safetensors")["weight"]
    assert weight.shape == (LANGUAGE.projection_size, 12)
    torch.testing.assert_close(images @ weight.T, model(images, inputs.input_ids)["images"])
