"""Both stages for real at the least size: what they write, that it repeats, and that killing them changes nothing."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState
from datasets import load_dataset
from PIL import Image

from stages import build_generator, fetch_data, generate_synthetic, mix_sources, write_captions
from stages.artifacts import BadInput, digest, read_json, read_manifest
from stages.dataset import shards
from stages.diffusion.plan import image_seed
from tests.closure import ROOT
from tests.tiny import CLASSES, draw_pictures, tiny_profile

OUTS = ("data/synthetic", "metrics/generate_synthetic.json", "plots/generate_synthetic")


def write_settings(**changes):
    profile = tiny_profile()
    for section, values in changes.items():
        profile[section].update(values)
    Path("profiles").mkdir(exist_ok=True)
    Path("profiles/tiny.yaml").write_text(yaml.safe_dump(profile))
    study = yaml.safe_load((ROOT / "params.yaml").read_text())
    study.update(profile="tiny", dataset_path="pictures", sources=["real", "synthetic"])
    Path("params.yaml").write_text(yaml.safe_dump(study))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A tiny study with data, generator and synthetic images."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_pictures(folder / "pictures")
        write_settings()
        fetch_data.main([])
        write_captions.main([])
        build_generator.main([])
        generate_synthetic.main([])
    return folder


@pytest.fixture
def project(built, tmp_path, monkeypatch):
    """A copy of it to spoil."""
    shutil.copytree(built, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return built


def forget(*names):
    for name in names:
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


def start(main, **environment):
    """Runs a stage in a forked process, which spares it the imports; returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            AcceleratorState._reset_state(True)
            os.environ.update(environment)
            main([])
            code = 0
        finally:
            os._exit(code)
    return pid


def ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def kill_once_there(pid, pattern):
    """Kills the process as soon as a file of the pattern lies in the scratch folder."""
    deadline = time.monotonic() + 60
    while not list(Path(".scratch").glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert not ended_well(pid)


def test_what_generation_writes(project):
    counts = {"train": 42, "val": 6}  # as many train images as real ones; 3 held-out captions x 2
    settings = {"guidance": 2.0, "num_inference_steps": 2}
    seen = set()
    for name, count in counts.items():
        rows = list(shards.read_rows(Path("data/synthetic"), name))
        assert len(rows) == count
        for row in rows:
            assert row.settings == {**settings, "sample_index": row.settings["sample_index"]}
            assert row.seed == image_seed(0, row.caption_id, row.settings["sample_index"])
            assert row.caption.endswith(CLASSES[row.label])
            image = Image.open(io.BytesIO(row.image))
            assert (image.format, image.size, image.mode) == ("PNG", (16, 16), "RGB")
        seen.add(frozenset(row.caption_id for row in rows))
    train, val = seen
    assert not train & val
    manifest = read_manifest(Path("data/synthetic"))
    assert manifest["settings"]["generate_synthetic"]["data_seed"] == 0
    assert manifest["generator_sha256"] == digest(Path("models/generator"))
    assert manifest["class_names"] == list(CLASSES)
    metrics = read_json(Path("metrics/generate_synthetic.json"))
    assert metrics["images"]["train"]["per_class"] == dict.fromkeys(CLASSES, 14)
    assert metrics["rejected"] == {"blank": 0, "unsafe": 0}
    assert 0 < metrics["distance_to_nearest_real_train"]["val"]["minimum"] < 1
    loaded = load_dataset("parquet", data_files={"train": "data/synthetic/train-*.parquet"}, split="train")
    assert loaded[0]["image"].size == (16, 16)
    assert loaded.features["label"].names == list(CLASSES)


def test_the_grid_shows_real_above_synthetic(project):
    shown = np.asarray(Image.open("plots/generate_synthetic/samples.png"))
    first = {}
    for folder, row in (("real", 0), ("synthetic", 1)):
        images = [r.image for r in shards.read_rows(Path("data") / folder, "train") if r.label == 0]
        first[folder] = np.asarray(Image.open(io.BytesIO(images[0])))
        assert np.array_equal(shown[row * 66 : row * 66 + 64 : 4, 120:184:4], first[folder])


def test_curves_and_settings_of_the_generator(project):
    manifest = read_manifest(Path("models/generator"))
    assert manifest["settings"]["mode"] == "train"
    for part in ("autoencoder", "denoiser"):
        rows = Path(f"plots/build_generator/{part}/plots/metrics/loss.tsv").read_text().splitlines()
        assert rows[0].split() == ["step", "loss"]
        assert rows[-1].split()[0] == "4"


@pytest.mark.parametrize("workers", [1, 2])
def test_generation_repeats_with_any_number_of_workers(project, workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(workers)))
    forget(*OUTS)
    assert generate_synthetic.main([])["workers"] == workers
    for out in OUTS:
        assert digest(Path(out)) == digest(project / out)


def test_generation_repeats_on_two_ranks(project):
    forget(*OUTS)
    # Programs of their own: a process that has compiled can't be trusted once forked into one of a group.
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*launch, "-m", "stages.generate_synthetic"], env={**os.environ, **paths}, check=False)
    assert run.returncode == 0
    for out in OUTS:
        assert digest(Path(out)) == digest(project / out)


def test_generation_killed_goes_on_to_the_same_bytes(project):
    forget(*OUTS)
    kill_once_there(start(generate_synthetic.main), "generate_synthetic-*/*.npz")
    assert not Path("data/synthetic").exists()
    generate_synthetic.main([])
    for out in OUTS:
        assert digest(Path(out)) == digest(project / out)
    assert not list(Path(".scratch").glob("generate_synthetic-*"))


def test_extra_images_leave_the_others_as_they_are_and_go_into_the_mix(project):
    write_settings(
        generate_synthetic={"extra_images_per_real": 1.5},
        mix_sources={"mode": "add", "real_fraction": 1, "synthetic_per_real": 1},
    )
    generate_synthetic.main([])
    for name in ("train", "val"):
        (shard,) = shards.shard_paths(Path("data/synthetic"), name)
        assert digest(shard) == digest(project / shard)
    train, extra = (list(shards.read_rows(Path("data/synthetic"), name)) for name in ("train", "extra"))
    assert len(extra) == 63
    assert not {row.seed for row in train} & {row.seed for row in extra}
    assert read_json(Path("metrics/generate_synthetic.json"))["images"]["extra"]["total"] == 63
    mix_sources.main([])
    mixed = list(shards.read_rows(Path("data/mixed"), "train"))
    assert Counter((row.label, row.caption is None) for row in mixed) == {
        (label, real): 14 for label in range(3) for real in (True, False)
    }
    assert {row.image for row in extra} & {row.image for row in mixed}
    assert shards.num_rows(Path("data/mixed"), "val") == shards.num_rows(Path("data/val"), "val")


def test_a_larger_synthetic_arm_on_demand(project):
    write_settings(generate_synthetic={"train_images_per_real": 1.5, "images_per_caption": 7})
    generate_synthetic.main([])
    assert read_manifest(Path("data/synthetic"))["rows"] == {"train": 63, "val": 6}


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_building_killed_goes_on_to_the_same_bytes(project, part):
    outs = ("models/generator", "plots/build_generator")
    forget(*outs)
    kill_once_there(start(build_generator.main), f"build_generator-*/{part}/checkpoint.pt")
    assert not Path("models/generator").exists()
    build_generator.main([])
    for out in outs:
        assert digest(Path(out)) == digest(project / out)


@pytest.mark.parametrize(
    ("stage", "spoil", "words"),
    [
        (write_captions, lambda: write_settings(prompts={"class_names": {"cross": ["x"]}}), "the label 'circle'"),
        (build_generator, lambda: forget("data/captions.tsv"), "data/captions.tsv: not there"),
        (generate_synthetic, lambda: forget("data/captions.tsv"), "data/captions.tsv: not there"),
        (generate_synthetic, lambda: write_settings(generate_synthetic={"images_per_caption": 4}), "make it 5"),
        (generate_synthetic, lambda: forget("models/generator/model_index.json"), "is not a diffusers pipeline"),
        (generate_synthetic, lambda: forget("models/generator/unet"), "can't be opened"),
        (generate_synthetic, lambda: forget("models/generator"), "models/generator: is not a diffusers pipeline"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(project, stage, spoil, words):
    before = digest(Path("data/synthetic"))
    spoil()
    with pytest.raises(BadInput, match=words) as caught:
        stage.main([])
    assert "\n" not in str(caught.value)
    assert digest(Path("data/synthetic")) == before
    assert not list(Path("data").glob(".*"))
    assert not list(Path(".scratch").glob("*/*"))


def test_an_argument_is_refused():
    for stage in (write_captions, build_generator, generate_synthetic):
        with pytest.raises(BadInput, match="takes no argument"):
            stage.main(["real"])
