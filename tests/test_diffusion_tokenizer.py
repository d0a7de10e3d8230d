import pytest
from transformers import CLIPTokenizer

from stages.diffusion.tokenizer import build_tokenizer, learn_merges

TEXTS = ["a handwritten seven", "7", "the number seven", "someone wrote a 7", "white ink on black paper, a zero", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS)


def test_each_word_is_one_token(tokenizer):
    ids = tokenizer("the number seven").input_ids
    assert len(ids) == 5  # with start and end
    assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == ["the</w>", "number</w>", "seven</w>"]
    assert tokenizer.model_max_length == max(len(tokenizer(text).input_ids) for text in TEXTS) == 10


def test_round_trip_also_of_unseen_words(tokenizer):
    for text in [*TEXTS, "unseen words", "été 42!"]:
        decoded = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.replace(" ", "")
    assert tokenizer.unk_token_id not in tokenizer("Ünseen wörds").input_ids[1:-1]


def test_saved_and_opened_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    opened = CLIPTokenizer.from_pretrained(tmp_path)
    options = {"padding": "max_length", "truncation": True}
    for text in [*TEXTS, "a very long text that has to be cut somewhere, said someone"]:
        assert opened(text, **options).input_ids == tokenizer(text, **options).input_ids
        assert len(opened(text, **options).input_ids) == 10


def test_the_order_of_texts_is_nothing(tokenizer):
    assert build_tokenizer(TEXTS[::-1]).get_vocab() == tokenizer.get_vocab()


def test_merges_are_those_of_the_published_example():
    """Sennrich et al. 2016, algorithm 1: in {low, lower, newest, widest} "es" and "est" come first."""
    words = ["low", "lower", *(f"{c}newest" for c in "abcd"), *(f"{c}widest" for c in "ab")]
    assert learn_merges(words)[:2] == [("e", "s"), ("es", "t</w>")]
    assert learn_merges([]) == []
