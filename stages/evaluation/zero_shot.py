"""Classification by texts alone: an image belongs to the class whose sentences it is most similar to."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.artifacts import BadInput
from stages.evaluation.knn import unit_length

Embeddings = NDArray[np.float32]


def read_templates(path: Path) -> list[str]:
    """The sentences of a file, one a line; empty lines and those that begin with # say nothing.

    Raises:
        BadInput: there is no such file, it has no sentence, or one has no place for the class.
    """
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt")))
        raise BadInput(f"{path}: not there; probe_encoder.zero_shot.templates names one of {known or 'no file at all'}")
    templates = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if not templates:
        raise BadInput(f"{path}: has no sentence; write one a line, with {{name}} where the class's name goes")
    for template in templates:
        if "{name}" not in template:
            raise BadInput(f"{path}: {template!r} has no {{name}}; write where the class's name goes")
    return templates


def class_sentences(
    templates: Sequence[str], names: dict[str, list[str]], class_names: Sequence[str]
) -> list[list[str]]:
    """For each class, in the order of its labels, every name in every template.

    Raises:
        BadInput: a class has no name.
    """
    for class_name in class_names:
        if class_name not in names:
            raise BadInput(f"probe_encoder.zero_shot.class_names: has no name for class {class_name}; add one")
    return [[text.replace("{name}", name) for text in templates for name in names[label]] for label in class_names]


def class_embeddings(
    sentences: Sequence[Sequence[str]], embed_texts: Callable[[Sequence[str]], Embeddings]
) -> Embeddings:
    """One direction per class: its sentences' embeddings, each of unit length, averaged and brought to unit length.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1.4.

    Args:
        sentences: for each class.
        embed_texts: texts to (texts, d).

    Returns:
        (classes, d).
    """
    return unit_length(np.stack([unit_length(embed_texts(texts)).mean(axis=0) for texts in sentences]))


def similarities(images: Embeddings, classes: Embeddings) -> Embeddings:
    """Cosine similarities in [-1, 1], (images, classes); the predicted class is the first largest.

    Args:
        images: (images, d), of any length.
        classes: (classes, d), of unit length.
    """
    cosines: Embeddings = unit_length(images) @ classes.T
    return cosines
