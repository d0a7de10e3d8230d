"""`evaluate`, `evaluate_vit` and `probe_encoder` on a tiny study whose networks were never trained."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from stages import config, evaluate, evaluate_vit, pretrain_encoder, probe_encoder, summarize
from stages.artifacts import BadInput, digest, feature_cache, read_manifest, write_manifest
from stages.dataset.augment import normalize
from stages.dataset.shards import write_shards
from stages.dataset.tensors import load_split
from stages.evaluation.predictions import read_predictions
from stages.networks import cnn, vit
from stages.sections import Cnn
from tests.closure import ROOT
from tests.test_evaluation_zero_shot import make_text_side
from tests.tiny import CLASSES
from tests.tiny_arms import SIZE, change, make_study, rows

NETWORK = Cnn(name="resnet", width=8, norm_group=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, untrained classifiers of both arms, and three encoders."""
    folder = tmp_path_factory.mktemp("evaluation") / "study"
    make_study(folder)
    write_shards(folder / "data" / "test", "test", rows(np.random.default_rng(5), 10, 1, False), CLASSES)
    write_manifest(folder / "data" / "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pretrain_encoder.main(["random"])
        pretrain_encoder.main(["pixels"])
        for index, source in enumerate(("real", "synthetic")):
            torch.manual_seed(index)
            weights = {
                name: cnn.build(NETWORK, 3, SIZE).state_dict()
                for name in ("model.safetensors", "model_oracle.safetensors")
            }
            model = folder / "models" / "cnn" / source
            model.mkdir(parents=True)
            cnn.save(model, NETWORK, CLASSES, SIZE, weights)
            for seed, place in enumerate((f"{source}-random", f"{source}-random/oracle")):
                classifier = vit.build_classifier(folder / "models" / "encoder" / "random", CLASSES, 10 * index + seed)
                vit.save(classifier, folder / "models" / "vit" / place)
        for source in ("real", "synthetic"):
            evaluate.main([source])
            evaluate_vit.main([source, "random"])
    return folder


@pytest.fixture
def study(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def facts(study, name):
    return json.loads((study / "metrics" / f"{name}.json").read_text())


def test_predictions_are_the_networks_own(study):
    test = load_split(study / "data" / "test", "test")
    with torch.no_grad():
        for file, name in (("test", "model.safetensors"), ("oracle", "model_oracle.safetensors")):
            found = read_predictions(study / "predictions" / "cnn" / "real" / f"{file}.parquet")
            network = cnn.load(study / "models" / "cnn" / "real", name, CLASSES, SIZE)
            np.testing.assert_allclose(found.logits, network(normalize(test.images)), rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(found.labels, test.labels)
        found = read_predictions(study / "predictions" / "vit" / "synthetic-random" / "oracle.parquet")
        network = vit.load_classifier(study / "models" / "vit" / "synthetic-random" / "oracle")
        np.testing.assert_allclose(found.logits, network(normalize(test.images)), rtol=1e-4, atol=1e-4)


def test_selected_and_oracle_weights_are_told_apart(study):
    for kind, item, name in (("cnn", "real", "evaluate"), ("vit", "real-random", "evaluate_vit")):
        chosen, oracle = (
            read_predictions(study / "predictions" / kind / item / f"{file}.parquet") for file in ("test", "oracle")
        )
        assert (chosen.logits != oracle.logits).any()
        found = facts(study, f"{name}/{item}")
        assert found["top1"] == (chosen.logits.argmax(1) == chosen.labels).mean()
        assert found["oracle_top1"] == (oracle.logits.argmax(1) == oracle.labels).mean()
        assert found["num_images"] == 30


def test_a_second_run_and_another_batch_size_write_the_same(study):
    outs = [study / "predictions" / "cnn" / "real", study / "metrics" / "evaluate" / "real.json"]
    before = [digest(out) for out in outs]
    evaluate.main(["real"])
    assert [digest(out) for out in outs] == before
    logits = read_predictions(outs[0] / "test.parquet").logits
    change(study, "evaluate", batch_size=7)
    evaluate.main(["real"])
    np.testing.assert_allclose(read_predictions(outs[0] / "test.parquet").logits, logits, rtol=1e-4, atol=1e-4)


def test_the_verdict_over_both_arms(study):
    summarize.main([])
    found = facts(study, "summary")
    assert found["headline"] == "synthetic"
    for network, name, item in (("cnn", "evaluate", ""), ("vit", "evaluate_vit", "-random")):
        ours, theirs = facts(study, f"{name}/synthetic{item}"), facts(study, f"{name}/real{item}")
        for key in ("top1", "macro_f1", "ece"):
            assert found[network][key] == pytest.approx(ours[key])
        assert found[network]["real_top1"] == theirs["top1"]
        assert found[network]["gap"] == pytest.approx(ours["top1"] - theirs["top1"])
    path = study / "params.yaml"
    original = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(original) | {"headline": "real"}))
    summarize.main([])
    path.write_text(original)
    found = facts(study, "summary")
    assert (found["headline"], found["cnn"]["gap"], found["vit"]["mcnemar_p_holm"]) == ("real", 0, 1)


@pytest.mark.parametrize(("name", "num_features", "floor"), [("random", 16, 0), ("pixels", 3 * SIZE**2, 0.8)])
def test_encoders_are_probed(study, name, num_features, floor):
    probe_encoder.main([name])
    found = facts(study, f"probe_encoder/{name}")
    kept = read_predictions(study / "predictions" / "probe" / name / "test.parquet")
    assert found["top1"] == (kept.logits.argmax(1) == kept.labels).mean()
    assert min(found["top1"], found["synthetic_head_top1"]) > floor, "both sources show the same bars"
    assert found["num_features"] == num_features
    assert (found["method"], found["source"], found["labels_seen"]) == (name, "real", "none")
    assert found["inverse_strength"] in (0.1, 1)
    assert 0 <= found["val_top1"] <= 1
    before = digest(study / "predictions" / "probe" / name), facts(study, f"probe_encoder/{name}")
    probe_encoder.main([name])
    assert (digest(study / "predictions" / "probe" / name), facts(study, f"probe_encoder/{name}")) == before


def test_the_feature_is_what_the_encoder_gives(study):
    """In float32; the tiny profile's bfloat16 rounds."""
    settings = config.load_profile("tiny").probe_encoder.model_copy(update={"precision": "float32"})
    test = load_split(study / "data" / "test", "test")
    runtime = probe_encoder.open_runtime(seed=0)
    for name, expected in (
        ("random", vit.load_encoder(study / "models" / "encoder" / "random")(normalize(test.images)).detach()),
        ("pixels", normalize(test.images).flatten(1)),
    ):
        found = probe_encoder.features_of(study / "models" / "encoder" / name, settings, runtime)(test)
        np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)


def test_what_changes_only_the_judging_embeds_nothing_again(study, monkeypatch):
    """The network is not even loaded; what the features depend on has them made anew."""
    probe_encoder.main(["random"])
    before = facts(study, "probe_encoder/random")

    def refuse(*_):
        raise AssertionError("embeds")

    monkeypatch.setattr(probe_encoder, "features_of", refuse)
    probe_encoder.main(["random"])
    assert facts(study, "probe_encoder/random") == before
    change(study, "probe_encoder", num_permutations=1)
    probe_encoder.main(["random"])
    after = facts(study, "probe_encoder/random")
    assert {key for key in before if before[key] != after[key]} == {"permuted_top1", "permuted_top1_deviation"}
    change(study, "probe_encoder", precision="float32")
    with pytest.raises(AssertionError, match="embeds"):
        probe_encoder.main(["random"])
    change(study, "probe_encoder", precision="bfloat16", num_permutations=3)
    shutil.copytree(study / "models" / "encoder" / "random", study / "models" / "encoder" / "other")
    with pytest.raises(AssertionError, match="embeds"):
        probe_encoder.main(["other"])


def test_an_encoder_with_texts_is_judged_by_them_and_one_without_is_not(study):
    random, language = (study / "models" / "encoder" / name for name in ("random", "language"))
    shutil.copytree(random, language)
    tokenizer, network, projection = make_text_side(language, width=16)
    write_manifest(language, **{**read_manifest(random), "zero_shot": True})
    change(study, "probe_encoder", precision="float32")
    for name in ("random", "language"):
        probe_encoder.main([name])
    assert "zero_shot_top1" not in facts(study, "probe_encoder/random")
    assert not (study / "predictions" / "probe" / "random" / "zero_shot.parquet").exists()
    found = facts(study, "probe_encoder/language")
    kept = read_predictions(study / "predictions" / "probe" / "language" / "zero_shot.parquet")
    assert found["zero_shot_top1"] == (kept.logits.argmax(1) == kept.labels).mean()
    assert found["zero_shot_templates"] == 15
    test = load_split(study / "data" / "test", "test")
    with torch.no_grad():
        features = vit.load_encoder(language)(normalize(test.images))
        images = torch.nn.functional.normalize(features @ projection.T)
        classes = []
        for name in CLASSES:
            texts = [
                line.replace("{name}", name)
                for line in (ROOT / "profiles/templates/digits.txt").read_text().splitlines()[1:]
            ]
            each = [network(**tokenizer([text], return_tensors="pt")).text_embeds for text in texts]
            classes.append(torch.nn.functional.normalize(torch.cat(each)).mean(0))
        expected = images @ torch.nn.functional.normalize(torch.stack(classes)).T
    np.testing.assert_allclose(kept.logits, expected, atol=1e-4)
    (language / "visual_projection.safetensors").unlink()
    with pytest.raises(BadInput, match=r"visual_projection\.safetensors: not there"):
        probe_encoder.main(["language"])
    change(study, "probe_encoder", zero_shot={"templates": "clap"})
    with pytest.raises(BadInput, match=r"clap\.txt: not there.*names one of clip, digits"):
        probe_encoder.main(["language"])
    change(study, "probe_encoder", zero_shot={"templates": "digits"}, precision="bfloat16")


def test_texts_find_the_images_that_were_planted_beside_them(study):
    """The projection takes each class's mean train image to where its sentences are; test images follow."""
    folder = study / "models" / "encoder" / "planted"
    shutil.copytree(study / "models" / "encoder" / "random", folder)
    tokenizer, network, _ = make_text_side(folder, width=16)
    train, encoder = load_split(study / "data" / "real", "train"), vit.load_encoder(folder)
    with torch.no_grad():
        features = encoder(normalize(train.images))
        means = torch.stack([features[train.labels == label].mean(0) for label in range(3)])
        texts = [network(**tokenizer([f"one {name}"], return_tensors="pt")).text_embeds[0] for name in CLASSES]
    directions = torch.nn.functional.normalize(torch.stack(texts) - torch.stack(texts).mean(0))
    weight = torch.linalg.pinv(means.double()) @ directions.double()
    save_file({"weight": weight.T.float().contiguous()}, folder / "visual_projection.safetensors")
    write_manifest(folder, **{**read_manifest(study / "models" / "encoder" / "random"), "zero_shot": True})
    probe_encoder.main(["planted"])
    assert facts(study, "probe_encoder/planted")["zero_shot_top1"] > 0.7


def test_transfer_sets_are_judged_each_for_itself(study):
    """A set of the study's own images gives the study's own figures; another of noise gives chance."""
    for name, place, split in (("train", "real", "train"), ("val", "val", "val"), ("test", "test", "test")):
        for source in (study / "data" / place).glob(f"{split}-*.parquet"):
            target = study / "data" / "transfer" / "same" / source.name.replace(split, name, 1)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    write_manifest(study / "data" / "transfer" / "same")
    write_manifest(study / "data" / "transfer", sets=["same"])
    probe_encoder.main(["pixels"])
    found = facts(study, "probe_encoder/pixels")
    assert found["transfer"].keys() == {"same"}
    assert found["transfer"]["same"]["top1"] > 0.9
    for key in ("neighbors_top1", "few_shot_top1"):
        assert found["transfer"]["same"][key] == found[key]
    assert (found["transfer"]["same"]["num_train_images"], found["transfer"]["same"]["num_images"]) == (60, 30)
    write_manifest(study / "data" / "transfer", sets=[])


@pytest.mark.parametrize(
    ("main", "argv", "words"),
    [
        (evaluate.main, [], "takes one source"),
        (evaluate.main, ["mixed"], "models/cnn/mixed"),
        (evaluate_vit.main, ["real"], "takes a source and an init"),
        (evaluate_vit.main, ["real", "hub"], "models/vit/real-hub"),
        (probe_encoder.main, ["a", "b"], "takes one encoder"),
        (probe_encoder.main, ["dino"], "models/encoder/dino"),
        (summarize.main, ["real"], "takes no arguments"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(study, main, argv, words):
    before = digest(study / "metrics")
    with pytest.raises(BadInput, match=words) as caught:
        main(argv)
    assert "\n" not in str(caught.value)
    assert digest(study / "metrics") == before


def test_models_of_other_data_are_refused(study, monkeypatch):
    """The same models over a data set of other classes, and of another image size."""
    split = load_split(study / "data" / "test", "test")
    for what, changed, words in (
        ("classes", {"class_names": ("a", "b", "c")}, "other classes"),
        ("size", {"images": split.images[:, :, :8, :8]}, "another image size"),
    ):
        other = type(split)(**{**vars(split), **changed})
        monkeypatch.setattr(evaluate, "load_split", lambda *_, other=other: other)
        with pytest.raises(BadInput, match=words):
            evaluate.main(["real"])
        monkeypatch.setattr(evaluate_vit, "load_split", lambda *_, other=other: other)
        if what == "classes":
            with pytest.raises(BadInput, match=words):
                evaluate_vit.main(["real", "random"])
        else:
            monkeypatch.setattr(probe_encoder, "load_split", lambda *_, other=other: other)
            shutil.rmtree(feature_cache(), ignore_errors=True)
            with pytest.raises(BadInput, match="was pretrained on images of 16 pixels, the data's have 8"):
                probe_encoder.main(["random"])
