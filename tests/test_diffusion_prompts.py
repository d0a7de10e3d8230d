import csv
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.artifacts import BadInput
from stages.diffusion.captions import Caption, read_captions, write_captions
from stages.diffusion.plan import cut, image_seed, plan_extra, plan_shots, replacements
from stages.diffusion.prompts import make_captions
from stages.generator_sections import Backgrounds, FilePrompts, TemplatePrompts
from tests.closure import ROOT

SHIPPED = ROOT / "profiles" / "prompts"
PROMPTS = TemplatePrompts(
    mode="from_templates",
    templates=["{name}", "a {name}", "the {name}", "one {name}"],
    class_names={"cat": ["cat", "tabby"], "dog": ["dog", "hound"]},
    modifiers=None,
    glossary=None,
    backgrounds=None,
    val_captions_per_class=3,
)


def test_every_template_meets_every_name_once():
    captions = make_captions(PROMPTS, ["cat", "dog"], SHIPPED)
    assert [c.caption_id for c in captions] == list(range(16))
    assert len({c.text for c in captions}) == 16
    assert [c.label for c in captions] == [0] * 8 + [1] * 8
    assert captions[3].text == "a tabby"
    for label in (0, 1):
        assert sum(c.split == "val" for c in captions if c.label == label) == 3


def test_labels_follow_the_data_set_and_held_out_texts_do_not():
    """The order of classes in data/real decides labels; which texts are held out depends on the texts alone."""
    one, other = make_captions(PROMPTS, ["cat", "dog"], SHIPPED), make_captions(PROMPTS, ["dog", "cat"], SHIPPED)
    assert {(c.text, c.split) for c in one} == {(c.text, c.split) for c in other}
    assert {c.text: 1 - c.label for c in one} == {c.text: c.label for c in other}


def altered(**changes):
    return TemplatePrompts.model_validate({**PROMPTS.model_dump(), **changes})


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
        make_captions(prompts, labels, SHIPPED)
    assert "\n" not in str(caught.value)


def texts(prompts, labels, folder=SHIPPED):
    """The texts of each class, in the order of their numbers."""
    captions = make_captions(prompts, labels, folder)
    return [[c.text for c in captions if c.label == label] for label in range(len(labels))]


def test_cifake_s_prompts_use_every_modifier_once():
    """The paper's example modifiers of two classes, and the article that each word takes."""
    prompts = altered(
        templates=["a photograph of {a} {modifier} {name}", "{name}"],
        class_names={"airplane": ["airplane"], "automobile": ["automobile"]},
        modifiers={"airplane": ["aircraft", "fighter"], "automobile": ["family", "old", "sports"]},
        val_captions_per_class=1,
    )
    assert texts(prompts, ["airplane", "automobile"]) == [
        ["a photograph of an aircraft airplane", "a photograph of a fighter airplane", "airplane"],
        [
            "a photograph of a family automobile",
            "a photograph of an old automobile",
            "a photograph of a sports automobile",
            "automobile",
        ],
    ]


def test_imagenet_sd_s_prompts_take_their_words_from_a_glossary():
    prompts = altered(
        templates=["{name}", "{name}, {hypernym}", "{name}, {definition}", "multiple {name}, {hypernym}"],
        class_names={"cat": ["cat"], "ship": ["ship"]},
        glossary="cifar10_glossary.tsv",
        val_captions_per_class=1,
    )
    cat, ship = texts(prompts, ["cat", "ship"])
    assert cat[:2] == ["cat", "cat, feline"]
    assert cat[2] == "cat, a small furry animal with whiskers that is kept as a pet and hunts mice"
    assert ship[3] == "multiple ship, vessel"


def inside(file, per_text=5, data_seed=0):
    return altered(
        templates=["{name}, {hypernym} inside {background}"],
        class_names={"cat": ["cat"], "dog": ["dog"]},
        glossary="cifar10_glossary.tsv",
        backgrounds={"file": file, "per_text": per_text, "data_seed": data_seed},
        val_captions_per_class=1,
    )


def test_backgrounds_are_drawn_by_seed_whatever_their_order(tmp_path):
    """Each text has its own draw, without repeats; another seed draws anew."""
    (tmp_path / "cifar10_glossary.tsv").write_bytes((SHIPPED / "cifar10_glossary.tsv").read_bytes())
    scenes = (SHIPPED / "scenes.txt").read_text().splitlines()
    (tmp_path / "scenes.txt").write_text("\n".join(reversed(scenes)))
    drawn = texts(inside("scenes.txt"), ["cat", "dog"])
    assert texts(inside("scenes.txt"), ["cat", "dog"], tmp_path) == drawn
    for group, start in zip(drawn, ("cat, feline inside ", "dog, canine inside "), strict=True):
        assert len(set(group)) == 5
        assert all(text.startswith(start) and text.removeprefix(start) in scenes for text in group)
    cat, dog = ({text.split(" inside ")[1] for text in group} for group in drawn)
    assert cat != dog
    assert texts(inside("scenes.txt", data_seed=1), ["cat", "dog"]) != drawn
    more = texts(inside("scenes.txt", per_text=9), ["cat", "dog"])
    assert all(group[:5] == fewer for group, fewer in zip(more, drawn, strict=True))


def test_backgrounds_are_drawn_uniformly(tmp_path):
    """Over 2,000 seeds each of ten scenes is drawn first about 200 times (standard deviation 13)."""
    scenes = [f"scene {i}" for i in range(10)]
    (tmp_path / "scenes.txt").write_text("\n".join(scenes))
    counts = dict.fromkeys(scenes, 0)
    for data_seed in range(1000):
        backgrounds = Backgrounds(file="scenes.txt", per_text=1, data_seed=data_seed)
        prompts = altered(templates=["{name} {background}"], backgrounds=backgrounds.model_dump(), **ONE_NAME)
        for (text,) in texts(prompts.model_copy(update={"val_captions_per_class": 0}), ["cat", "dog"], tmp_path):
            counts[text.partition(" ")[2]] += 1
    assert all(abs(count - 200) < 4.5 * 13.4 for count in counts.values())


ONE_NAME = {"class_names": {"cat": ["cat"], "dog": ["dog"]}}


def from_file(name):
    return FilePrompts(mode="from_file", file=name, val_captions_per_class=1)


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_a_file_of_captions_keeps_its_order_and_gives_each_a_number(tmp_path, suffix):
    rows = [("a dog, asleep", "dog"), ("a  black cat", "cat"), ('a dog "at work"', "dog"), ("two cats", "cat")]
    path = tmp_path / f"mine.{suffix}"
    if suffix == "parquet":
        table = {"label": [label for _, label in rows], "caption": [text for text, _ in rows]}
        pq.write_table(pa.table(table), path)
    elif suffix == "csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([("caption", "label"), *rows])
    else:
        path.write_text("".join(f"{text}\t{label}\n" for text, label in [("caption", "label"), *rows]))
    captions = make_captions(from_file(path.name), ["cat", "dog"], tmp_path)
    assert [c.caption_id for c in captions] == [0, 1, 2, 3]
    assert [c.text for c in captions] == ["a black cat", "two cats", "a dog, asleep", 'a dog "at work"']
    assert [c.label for c in captions] == [0, 0, 1, 1]
    assert [sum(c.split == "val" for c in captions if c.label == label) for label in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "mine.tsv: not there; put the file"),
        ("caption\tclass\na cat\tcat\n", "mine.tsv: has no column label"),
        ("caption\tlabel\na cat\tcat\n", "no caption has the label 'dog'"),
        ("caption\tlabel\na cat\tcat\na fox\tfox\n", "row 2 has the label 'fox'"),
        ("caption\tlabel\na cat\n", "row 1 has no label"),
        ("caption\tlabel\n\tcat\n", "row 1 has no caption"),
        ("caption\tlabel\na pet\tcat\na pet\tdog\n", "'a pet' is made 2 times"),
        ("caption\tlabel\na cat\tcat\na dog\tdog\n", "leave none to train on"),
        (b"caption\tlabel\n\xff\tcat\n", "mine.tsv: can't be read"),
    ],
)
def test_a_bad_file_of_captions_is_one_clear_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / "mine.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=words) as caught:
        make_captions(from_file("mine.tsv"), ["cat", "dog"], tmp_path)
    assert "\n" not in str(caught.value)


def test_other_bad_files_are_one_clear_line(tmp_path):
    def refused(prompts, words):
        with pytest.raises(BadInput, match=words) as caught:
            make_captions(prompts, ["cat", "dog"], tmp_path)
        assert "\n" not in str(caught.value)

    refused(from_file("mine.txt"), r"is no \.tsv, \.csv or \.parquet")
    (tmp_path / "mine.parquet").write_text("no table")
    refused(from_file("mine.parquet"), "can't be read")
    refused(inside("scenes.txt"), "cifar10_glossary.tsv: not there")
    glossary = tmp_path / "cifar10_glossary.tsv"
    glossary.write_text("class\thypernym\tdefinition\ncat\tfeline\tmiaows\n")
    refused(inside("scenes.txt"), "no row for the class 'dog'")
    glossary.write_text("class\thypernym\tdefinition\ncat\tfeline\tmiaows\ndog\tcanine\tbarks\n")
    refused(inside("scenes.txt"), "scenes.txt: not there")
    (tmp_path / "scenes.txt").write_text("# none\n\nbeach\nmeadow\n")
    refused(inside("scenes.txt"), "per_text: 5, .* has only 2 scenes")
    (tmp_path / "scenes.txt").write_text("beach\nbeach\n")
    refused(inside("scenes.txt"), "the scene 'beach' stands 2 times")
    glossary.write_text("class\thypernym\tdefinition\ncat\tfeline\tmiaows\ncat\tfeline\tpurrs\n")
    refused(inside("scenes.txt"), "the class 'cat' stands 2 times")


def test_captions_are_read_as_they_were_written(tmp_path):
    captions = make_captions(PROMPTS, ["cat", "dog"], SHIPPED)
    write_captions(tmp_path / "captions.tsv", captions, ["cat", "dog"])
    assert read_captions(tmp_path / "captions.tsv", ["cat", "dog"]) == captions
    assert read_captions(tmp_path / "captions.tsv", ["dog", "cat"])[0] == Caption(0, "cat", 1, captions[0].split)
    for spoil, words in (
        (lambda text: text.replace("dog\t", "fox\t"), "no table of captions"),
        (lambda text: "\n".join(text.split("\n")[::2]), "not written by write_captions"),
        (lambda text: "", "no table of captions|not written"),
        (None, "not there"),
    ):
        path = tmp_path / f"{words[:9]}.tsv"
        if spoil is not None:
            path.write_text(spoil((tmp_path / "captions.tsv").read_text()))
        with pytest.raises(BadInput, match=words):
            read_captions(path, ["cat", "dog"])


def test_a_class_gets_exactly_as_many_images_as_the_real_one_has():
    captions = make_captions(PROMPTS, ["cat", "dog"], SHIPPED)  # 5 train captions a class
    shots = plan_shots(captions, {0: 12, 1: 15}, images_per_caption=3, val_images_per_caption=2, data_seed=7)
    train = [s for s in shots if s.caption.split == "train"]
    assert [sum(s.caption.label == label for s in train) for label in (0, 1)] == [12, 15]
    per_caption = [sum(s.caption == c for s in shots) for c in captions]
    assert {n for n, c in zip(per_caption, captions, strict=True) if c.split == "val"} == {2}
    assert {n for n, c in zip(per_caption, captions, strict=True) if c.split == "train"} == {0, 3}
    assert len({s.seed for s in shots}) == len(shots)
    with pytest.raises(BadInput, match=r"5 captions x 3 .* 16 train images wanted of label 1; make it 4"):
        plan_shots(captions, {0: 12, 1: 16}, 3, 2, 7)


def test_as_few_captions_are_used_as_the_images_need():
    """m images of each caption: 9 train images at m = 3 are 3 captions, drawn by the seed and their texts."""
    captions = make_captions(PROMPTS, ["cat", "dog"], SHIPPED)

    def used(data_seed, captions=captions):
        shots = plan_shots(captions, {0: 9, 1: 8}, 3, 2, data_seed)
        train = Counter(s.caption.text for s in shots if s.caption.split == "train")
        assert sorted(train.values()) == [2, 3, 3, 3, 3, 3]
        return set(train)

    assert used(0, tuple(reversed(captions))) == used(0)
    assert len({frozenset(used(seed)) for seed in range(5)}) > 1


def test_extra_images_go_on_after_all_that_were_made():
    captions = make_captions(PROMPTS, ["cat", "dog"], SHIPPED)  # 5 train captions a class
    shots = plan_shots(captions, {0: 10, 1: 15}, 3, 2, 0)
    made = [*shots, *replacements(shots, [shots[0]], 0)]
    extra = plan_extra(captions, {0: 12, 1: 5}, made, 0)
    assert Counter(s.caption.label for s in extra) == {0: 12, 1: 5}
    assert {s.caption.split for s in extra} == {"train"}
    per_caption = Counter(s.caption.caption_id for s in extra)
    assert set(per_caption.values()) == {1, 2, 3}
    assert len({(s.caption.caption_id, s.sample_index) for s in [*made, *extra]}) == len(made) + 17
    for caption in captions:
        indices = {s.sample_index for s in [*made, *extra] if s.caption == caption}
        assert indices == set(range(len(indices)))


def test_seeds_are_fixed_for_ever():
    """Published values of this project: a change of the hash would change every synthetic data set."""
    assert image_seed(0, 0, 0) == 5842066033578894005
    assert image_seed(0, 12, 3) == 420640500126597054
    assert len({image_seed(a, b, c) for a in range(5) for b in range(20) for c in range(20)}) == 2000
    assert 0 <= image_seed(2**31, 10**6, 10**6) < 2**63


def test_a_rejected_image_takes_the_next_index_of_its_caption():
    captions = make_captions(PROMPTS, ["cat", "dog"], SHIPPED)
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
    shots = plan_shots(make_captions(PROMPTS, ["cat", "dog"], SHIPPED), {0: 15, 1: 15}, 3, 2, 0)
    batches = cut(shots, 8)
    assert [len(b) for b in batches] == [8, 8, 8, 8, 8, 2]
    assert [s for b in batches for s in b] == shots
