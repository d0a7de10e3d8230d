import pytest

from stages.artifacts import BadInput
from stages.diffusion.plan import cut, image_seed, plan_shots, replacements
from stages.diffusion.prompts import make_captions
from stages.generator_sections import Prompts

PROMPTS = Prompts(
    templates=["{name}", "a {name}", "the {name}", "one {name}"],
    class_names={"cat": ["cat", "tabby"], "dog": ["dog", "hound"]},
    val_captions_per_class=3,
)


def test_every_template_meets_every_name_once():
    captions = make_captions(PROMPTS, ["cat", "dog"])
    assert [c.caption_id for c in captions] == list(range(16))
    assert len({c.text for c in captions}) == 16
    assert [c.label for c in captions] == [0] * 8 + [1] * 8
    assert captions[3].text == "a tabby"
    for label in (0, 1):
        assert sum(c.split == "val" for c in captions if c.label == label) == 3


def test_labels_follow_the_data_set_and_held_out_texts_do_not():
    """The order of classes in data/real decides labels; which texts are held out depends on the texts alone."""
    one, other = make_captions(PROMPTS, ["cat", "dog"]), make_captions(PROMPTS, ["dog", "cat"])
    assert {(c.text, c.split) for c in one} == {(c.text, c.split) for c in other}
    assert {c.text: 1 - c.label for c in one} == {c.text: c.label for c in other}


def altered(**changes):
    return Prompts.model_validate({**PROMPTS.model_dump(), **changes})


@pytest.mark.parametrize(
    ("prompts", "labels", "words"),
    [
        (PROMPTS, ["cat", "dog", "fox"], "no prompt covers the label 'fox'"),
        (PROMPTS, ["cat"], "'dog' is no label"),
        (altered(class_names={"cat": ["pet"], "dog": ["pet"]}), ["cat", "dog"], "is made 2 times"),
        (altered(val_captions_per_class=8), ["cat", "dog"], "leave none to train on"),
    ],
)
def test_bad_prompts_are_one_clear_line(prompts, labels, words):
    with pytest.raises(BadInput, match=words) as caught:
        make_captions(prompts, labels)
    assert "\n" not in str(caught.value)


def test_a_class_gets_exactly_as_many_images_as_the_real_one_has():
    captions = make_captions(PROMPTS, ["cat", "dog"])  # 5 train captions a class
    shots = plan_shots(captions, {0: 12, 1: 15}, images_per_caption=3, val_images_per_caption=2, data_seed=7)
    train = [s for s in shots if s.caption.split == "train"]
    assert [sum(s.caption.label == label for s in train) for label in (0, 1)] == [12, 15]
    per_caption = [sum(s.caption == c for s in shots) for c in captions]
    assert {n for n, c in zip(per_caption, captions, strict=True) if c.split == "val"} == {2}
    assert {n for n, c in zip(per_caption, captions, strict=True) if c.split == "train"} == {2, 3}
    assert len({s.seed for s in shots}) == len(shots)
    with pytest.raises(BadInput, match=r"images_per_caption: 5 captions x 3 .* 16 real .* label 1; make it 4"):
        plan_shots(captions, {0: 12, 1: 16}, 3, 2, 7)


def test_seeds_are_fixed_for_ever():
    """Published values of this project: a change of the hash would change every synthetic data set."""
    assert image_seed(0, 0, 0) == 5842066033578894005
    assert image_seed(0, 12, 3) == 420640500126597054
    assert len({image_seed(a, b, c) for a in range(5) for b in range(20) for c in range(20)}) == 2000
    assert 0 <= image_seed(2**31, 10**6, 10**6) < 2**63


def test_a_rejected_image_takes_the_next_index_of_its_caption():
    captions = make_captions(PROMPTS, ["cat", "dog"])
    shots = plan_shots(captions, {0: 15, 1: 15}, 3, 2, 0)
    first, second, other = shots[0], shots[1], shots[-1]
    again = replacements(shots, [first, second, other], 0)
    assert [(s.caption, s.sample_index) for s in again] == [
        (first.caption, 3 if first.caption.split == "train" else 2),
        (first.caption, 4 if first.caption.split == "train" else 3),
        (other.caption, 3 if other.caption.split == "train" else 2),
    ]
    assert again[0].seed == image_seed(0, first.caption.caption_id, again[0].sample_index)
    third = replacements([*shots, *again], [again[1]], 0)
    assert third[0].sample_index == again[1].sample_index + 1


def test_batches_are_cut_by_position():
    shots = plan_shots(make_captions(PROMPTS, ["cat", "dog"]), {0: 15, 1: 15}, 3, 2, 0)
    batches = cut(shots, 8)
    assert [len(b) for b in batches] == [8, 8, 8, 8, 8, 2]
    assert [s for b in batches for s in b] == shots
