"""Texts to make images from, by templates or from a user's file. Pure but for the files named; never imports torch.

The published prompts are templates: the class name, class and hypernym, class and definition, `... inside
{background}` and `multiple ...` (Sariyildiz et al. 2023, "Fake it till you make it"), `a photograph of {a} {modifier}
{name}` (Bird and Lotfi 2024, CIFAKE).
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Formatter
from typing import assert_never

from stages.artifacts import BadInput
from stages.diffusion.captions import Caption
from stages.diffusion.word_lists import read_glossary, read_scenes, read_table
from stages.generator_sections import Backgrounds, FilePrompts, Prompts, TemplatePrompts

_ARTICLE = "\0"
_NO_WORDS: tuple[str, str] = ("", "")


def make_captions(prompts: Prompts, class_names: Sequence[str], folder: Path) -> tuple[Caption, ...]:
    """All captions: class by class in the data set's order, then in the order of templates and words, or of the file.

    Held out are those of a class whose text hashes lowest, so that neither the order nor another class's prompts
    decide.

    Args:
        prompts: templates and words, or the name of a table of captions.
        class_names: of the data.
        folder: where files that `prompts` names lie.

    Raises:
        BadInput: a class has no prompt, a prompt no class, a text stands twice, no caption is left to train on, or a
            file is no good.
    """
    match prompts:
        case TemplatePrompts():
            texts = _from_templates(prompts, class_names, folder)
        case FilePrompts():
            texts = _from_file(folder / prompts.file, class_names)
        case _ as never:
            assert_never(never)
    text, uses = Counter(itertools.chain.from_iterable(texts)).most_common(1)[0]
    if uses > 1:
        raise BadInput(f"prompts: the caption {text!r} is made {uses} times; give every caption another text")
    captions: list[Caption] = []
    for label, group in enumerate(texts):
        held_out = set(sorted(group, key=_hash)[: prompts.val_captions_per_class])
        if len(held_out) == len(group):
            raise BadInput(
                f"prompts.val_captions_per_class: {prompts.val_captions_per_class} of the {len(group)} captions of "
                f"class {class_names[label]} leave none to train on; lower it or write more prompts"
            )
        for text in group:
            captions.append(Caption(len(captions), text, label, "val" if text in held_out else "train"))
    return tuple(captions)


def _from_templates(prompts: TemplatePrompts, class_names: Sequence[str], folder: Path) -> list[list[str]]:
    """The texts of each class."""
    _check_labels("class_names", prompts.class_names, class_names)
    if prompts.modifiers is not None:
        _check_labels("modifiers", prompts.modifiers, class_names)
    glossary = {} if prompts.glossary is None else read_glossary(folder / prompts.glossary)
    for name in class_names if prompts.glossary else ():
        if name not in glossary:
            raise BadInput(f"{folder / str(prompts.glossary)}: has no row for the class {name!r}; add it")
    scenes = _scenes(prompts.backgrounds, folder)
    groups = []
    for label in class_names:
        hypernym, definition = glossary.get(label, _NO_WORDS)
        group: list[str] = []
        for template in prompts.templates:
            modifiers = (prompts.modifiers or {}).get(label, [""]) if "modifier" in _places(template) else [""]
            for name, modifier in itertools.product(prompts.class_names[label], modifiers):
                words = {"name": name, "modifier": modifier, "hypernym": hypernym, "definition": definition}
                group += _fill(template, words, prompts.backgrounds, scenes)
        groups.append(group)
    return groups


def _fill(template: str, words: dict[str, str], backgrounds: Backgrounds | None, scenes: list[str]) -> Iterator[str]:
    """A template's texts: one, or one per drawn scene; articles are written last, when the word after them is known."""
    drawn = [""]
    if backgrounds is not None and "background" in _places(template):
        place = template.format(**words, a=_ARTICLE, background="")
        drawn = sorted(scenes, key=lambda scene: _hash(f"{backgrounds.data_seed}\0{place}\0{scene}"))
        drawn = drawn[: backgrounds.per_text]
    for background in drawn:
        text = template.format(**words, a=_ARTICLE, background=background)
        yield re.sub(rf"{_ARTICLE}(?=\W*(\w?))", lambda found: "an" if found[1].lower() in [*"aeiou"] else "a", text)


def _scenes(backgrounds: Backgrounds | None, folder: Path) -> list[str]:
    if backgrounds is None:
        return []
    scenes = read_scenes(folder / backgrounds.file)
    if len(scenes) < backgrounds.per_text:
        raise BadInput(
            f"prompts.backgrounds.per_text: {backgrounds.per_text}, but {folder / backgrounds.file} has only "
            f"{len(scenes)} scenes; lower it or add scenes"
        )
    return scenes


def _from_file(path: Path, class_names: Sequence[str]) -> list[list[str]]:
    """The texts of each class, in the order of the file."""
    groups: dict[str, list[str]] = {name: [] for name in class_names}
    for number, (caption, label) in enumerate(read_table(path, ("caption", "label")), 1):
        if label not in groups:
            raise BadInput(f"{path}: row {number} has the label {label!r}; data/real has {[*class_names]}")
        groups[label].append(caption)
    for label, group in groups.items():
        if not group:
            raise BadInput(f"{path}: no caption has the label {label!r} of data/real; add some")
    return list(groups.values())


def _places(template: str) -> set[str | None]:
    return {place for _, place, _, _ in Formatter().parse(template)}


def _check_labels(key: str, words: dict[str, list[str]], class_names: Sequence[str]) -> None:
    """Classes and the keys of words must be the same set."""
    for name in class_names:
        if name not in words:
            raise BadInput(f"prompts.{key}: no prompt covers the label {name!r} of data/real; add its words")
    for name in words:
        if name not in class_names:
            raise BadInput(f"prompts.{key}: {name!r} is no label of data/real; correct or drop it")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
