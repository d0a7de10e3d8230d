"""Captions: every template with every name of every class. Pure; never imports torch."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from stages.artifacts import BadInput
from stages.generator_sections import Prompts

EMPTY = ""
"""The caption of the unconditional estimate."""


@dataclasses.dataclass(frozen=True)
class Caption:
    """One text that images are made from."""

    caption_id: int
    """Position among all captions of the study."""
    text: str
    """What the generator reads."""
    label: int
    """Index of the class that it names."""
    split: Literal["train", "val"]
    """Held-out captions make the synthetic arm's own validation split."""


def make_captions(prompts: Prompts, class_names: Sequence[str]) -> tuple[Caption, ...]:
    """All captions: class by class in the data set's order, template by template, name by name.

    Held out are those of a class whose text hashes lowest, so that neither the order nor another class's prompts
    decide.

    Raises:
        BadInput: a class has no prompt, a prompt no class, a text stands twice, or no caption is left to train on.
    """
    _check_labels(prompts, class_names)
    texts = [[t.format(name=name) for t in prompts.templates for name in prompts.class_names[c]] for c in class_names]
    text, uses = Counter(text for group in texts for text in group).most_common(1)[0]
    if uses > 1:
        raise BadInput(f"prompts: the caption {text!r} is made {uses} times; give every template and name another text")
    captions: list[Caption] = []
    for label, group in enumerate(texts):
        held_out = set(sorted(group, key=_hash)[: prompts.val_captions_per_class])
        if len(held_out) == len(group):
            raise BadInput(
                f"prompts.val_captions_per_class: {prompts.val_captions_per_class} of the {len(group)} captions of "
                f"class {class_names[label]} leave none to train on; lower it or add templates"
            )
        for text in group:
            captions.append(Caption(len(captions), text, label, "val" if text in held_out else "train"))
    return tuple(captions)


def _check_labels(prompts: Prompts, class_names: Sequence[str]) -> None:
    """Classes and prompts must be the same set."""
    for name in class_names:
        if name not in prompts.class_names:
            raise BadInput(f"prompts.class_names: no prompt covers the label {name!r} of data/real; add its names")
    for name in prompts.class_names:
        if name not in class_names:
            raise BadInput(f"prompts.class_names: {name!r} is no label of data/real; correct or drop it")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
