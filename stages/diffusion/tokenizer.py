"""A CLIP tokenizer whose vocabulary is learned from the captions: each of their words becomes one token."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
Merge = tuple[str, str]


def build_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """A `CLIPTokenizer` for the captions, as long as the longest of them.

    Every byte has a token, inside a word and at its end, so that any other text is spelled rather than unknown.

    Args:
        texts: the captions; their order is nothing.
    """
    alphabet = sorted(ByteLevel.alphabet())
    spelling = {token: i for i, token in enumerate([*alphabet, *(c + WORD_END for c in alphabet), START, END])}
    speller = CLIPTokenizer(vocab=spelling, merges=[])
    words = {word for text in texts for word in _words(speller, text)}
    merges = learn_merges(words)
    tokens = [*spelling, *dict.fromkeys(a + b for a, b in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    length = max(len(_words(speller, text)) for text in texts) + 2
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def learn_merges(words: Iterable[str]) -> list[Merge]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1), run until every word is one symbol.

    Of equally frequent pairs the first in lexicographic order is merged.

    Returns:
        The merges in the order in which they were learned.
    """
    spelled = [[*word[:-1], word[-1] + WORD_END] for word in sorted(set(words))]
    merges: list[Merge] = []
    while counts := Counter(pair for symbols in spelled for pair in pairwise(symbols)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merge(symbols, best) for symbols in spelled]
    return merges


def _merge(symbols: list[str], pair: Merge) -> list[str]:
    """`symbols` with each occurrence of `pair`, from the left, as one symbol."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _words(tokenizer: CLIPTokenizer, text: str) -> list[str]:
    """The text as CLIP's own rules cut it, before any byte-pair encoding."""
    backend = tokenizer.backend_tokenizer
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]
