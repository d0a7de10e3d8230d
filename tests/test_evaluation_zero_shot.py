"""Classification by texts: the formula against a slow one, and the folder against transformers itself."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from stages.artifacts import BadInput
from stages.diffusion.tokenizer import build_tokenizer
from stages.encoder_sections import Language
from stages.evaluation import zero_shot
from stages.networks import language
from stages.networks.text_side import load_text_side
from tests.closure import ROOT

TEXTS = ["a circle", "one cross", "a photograph of the square"]


def make_text_side(folder, width, dimensions=6):
    """What a language method leaves beside its encoder, from classes of transformers alone."""
    tokenizer = build_tokenizer(TEXTS)
    torch.manual_seed(0)
    network = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=dimensions,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    network.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    projection = torch.randn(dimensions, width)
    save_file({"weight": projection}, folder / "visual_projection.safetensors")
    return tokenizer, network, projection


def test_a_class_is_the_mean_direction_of_its_sentences():
    rng = np.random.default_rng(0)
    known = {text: rng.normal(size=5).astype(np.float32) * rng.uniform(0.1, 9) for text in "abcdef"}
    found = zero_shot.class_embeddings(
        [["a", "b", "c"], ["d"], ["e", "f"]], lambda texts: np.stack([known[t] for t in texts])
    )
    for row, group in zip(found, ("abc", "d", "ef"), strict=True):
        mean = sum(known[text] / np.linalg.norm(known[text]) for text in group) / len(group)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5)
    images = np.stack([3 * found[2], 0.01 * found[0], found[1]])
    cosines = zero_shot.similarities(images, found)
    assert cosines.argmax(1).tolist() == [2, 0, 1]
    np.testing.assert_allclose(cosines.max(1), 1, rtol=1e-5)


def test_every_name_goes_through_every_template():
    names = {"cat": ["cat", "house cat"], "dog": ["dog"], "cow": ["cow"]}
    found = zero_shot.class_sentences(["a {name}.", "the {name}, {name}!"], names, ["dog", "cat"])
    assert found == [
        ["a dog.", "the dog, dog!"],
        ["a cat.", "a house cat.", "the cat, cat!", "the house cat, house cat!"],
    ]
    with pytest.raises(BadInput, match="has no name for class bird"):
        zero_shot.class_sentences(["{name}"], names, ["bird"])


def test_clips_file_has_its_80_sentences():
    found = zero_shot.read_templates(ROOT / "profiles" / "templates" / "clip.txt")
    assert len(found) == len(set(found)) == 80
    assert found[0] == "a bad photo of a {name}."
    assert found[-1] == "a tattoo of the {name}."
    assert all(text.count("{name}") == 1 and text.endswith(".") for text in found)
    assert {"itap of my {name}.", "the {name} in a video game.", "a jpeg corrupted photo of a {name}."} <= set(found)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not there; .* names one of other"),
        ("# nothing\n\n", "has no sentence"),
        ("a {name}\nhello\n", "'hello' has no"),
    ],
)
def test_files_without_use_are_told(tmp_path, content, words):
    (tmp_path / "other.txt").write_text("{name}")
    if content is not None:
        (tmp_path / "this.txt").write_text(content)
    with pytest.raises(BadInput, match=words):
        zero_shot.read_templates(tmp_path / "this.txt")


def test_a_text_side_is_what_transformers_opens(tmp_path):
    tokenizer, network, projection = make_text_side(tmp_path, width=7)
    side = load_text_side(tmp_path)
    with torch.no_grad():
        alone = torch.cat([network(**tokenizer([text], return_tensors="pt")).text_embeds for text in TEXTS])
    torch.testing.assert_close(side.embed_texts(TEXTS), alone)  # whatever a batch pads them to
    features = torch.randn(3, 7)
    torch.testing.assert_close(side.embed_images(features), features @ projection.T)
    long = "a circle " * 40
    assert side.embed_texts([long]).isfinite().all()
    assert side.embed_texts(["une pomme"]).isfinite().all()  # words that it has not seen are spelled


def test_what_pretraining_saves_embeds_as_it_did_in_training(tmp_path):
    settings = Language(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        context_length=12,
        projection_size=6,
        image_weight=1,
        text_weight=1,
    )
    tokenizer = build_tokenizer(TEXTS)
    torch.manual_seed(1)
    trained, projection = language.TextEncoder(settings, tokenizer).eval(), torch.nn.Linear(7, 6, bias=False)
    language.save(tmp_path, trained, tokenizer, projection)
    side = load_text_side(tmp_path)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=12, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(side.embed_texts(TEXTS), trained(tokens))
        features = torch.randn(3, 7)
        torch.testing.assert_close(side.embed_images(features), projection(features))


def test_parts_that_do_not_fit_are_told(tmp_path):
    with pytest.raises(BadInput, match=r"text/config\.json: not there"):
        load_text_side(tmp_path)
    make_text_side(tmp_path, width=7)
    save_file({"weight": torch.zeros(5, 7)}, tmp_path / "visual_projection.safetensors")
    with pytest.raises(BadInput, match="maps to 5 dimensions, texts have 6"):
        load_text_side(tmp_path)
