"""The study of encoders: its plan, what counts as a cell that was run, and its table from known results."""

import re
import shutil

import numpy as np
import pytest
import yaml

from stages.artifacts import BadInput
from tests.closure import ROOT
from tools import encoder_study, encoder_table
from tools.encoder_study import Cell, Result
from tools.encoder_table import Row

GUIDED = Cell("digits", "stablerep", "synthetic", 2.0, 1)


def test_the_plan_is_the_one_that_was_asked_for():
    cells = encoder_study.planned()
    assert len(cells) == len(set(cells))
    count = {
        key: len({cell for cell in cells if (cell.profile, cell.source, cell.method) == key})
        for key in {(cell.profile, cell.source, cell.method) for cell in cells}
    }
    for method in ("stablerep", "simclr"):
        assert count["digits", "synthetic", method] == 9  # guidance 1, 2, 4 with three seeds
        assert count["cifake-cpu", "synthetic", method] == 3
    for method in ("supcon", "simclr", "mae"):
        assert count["cifake-cpu", "fake", method] == count["cifake-cpu", "real", method] == 3
        assert count["digits", "real", method] == 3
    for profile in ("digits", "cifake-cpu"):  # the controls stand beside every result
        assert (count[profile, "real", "random"], count[profile, "real", "pixels"]) == (3, 1)
    assert {cell.profile for cell in cells} <= {path.stem for path in (ROOT / "profiles").glob("*.yaml")}


def test_an_experiment_runs_its_cells_and_nothing_else():
    group = [GUIDED, Cell("digits", "simclr", "synthetic", 2.0, 1)]
    words = encoder_study.command_of(group, ["dataset_path=x"])
    assert words[:3] == ["dvc", "exp", "run"]
    assert words[-2:] == ["probe_encoder@stablerep-synthetic", "probe_encoder@simclr-synthetic"]
    changes = {words[i + 1] for i, word in enumerate(words) if word == "-S"}
    assert {"profile=digits", "seed=1", "guidance=2", "dataset_path=x"} < changes
    assert "++encoders.simclr-synthetic={method:simclr,source:synthetic}" in changes
    assert {cell.experiment for cell in group} == {"encoders-digits-w2-s1"}
    assert Cell("digits", "simclr", "synthetic", 2.5, 0).experiment == "encoders-digits-w2p5-s0"
    assert Cell("digits", "mae", "real", None, 0).experiment == "encoders-digits-unguided-s0"


def made_lock():
    """The part of a dvc.lock that tells of GUIDED."""
    name = "stablerep-synthetic"

    def images():
        return [{"path": "data/synthetic", "md5": "i"}]

    def model():
        return [{"path": f"models/encoder/{name}", "md5": "m"}]

    made = {f"encoders.{name}": {"method": "stablerep", "source": "synthetic"}, "seed": 1}
    params = {"params.yaml": made, "profiles/digits.yaml": {}}
    return {
        "stages": {
            "generate_synthetic": {"params": {"params.yaml": {"guidance": 2}}, "outs": images()},
            f"pretrain_encoder@{name}": {"deps": images(), "params": params, "outs": model()},
            f"probe_encoder@{name}": {"deps": model(), "params": {"profiles/digits.yaml": {}}},
        }
    }


def test_a_lock_tells_what_was_made_from_what_an_earlier_run_left():
    assert encoder_study.was_made(made_lock(), GUIDED)
    pretrain, probe = (f"{stage}@stablerep-synthetic" for stage in ("pretrain_encoder", "probe_encoder"))

    def without(change):
        lock = made_lock()
        change(lock["stages"])
        return encoder_study.was_made(lock, GUIDED)

    assert not without(lambda s: s.pop(probe))
    assert not without(lambda s: s[pretrain]["params"]["params.yaml"].update(seed=0))
    assert not without(lambda s: s["generate_synthetic"]["params"]["params.yaml"].update(guidance=4))
    assert not without(lambda s: s["generate_synthetic"]["outs"][0].update(md5="newer"))
    assert not without(lambda s: s[probe]["deps"][0].update(md5="older"))
    assert not without(lambda s: s[probe].update(params={"profiles/cifake-cpu.yaml": {}}))
    assert not without(
        lambda s: s[pretrain]["params"]["params.yaml"]["encoders.stablerep-synthetic"].update(method="x")
    )


def result(seed, level, val, images=400, test="t"):
    return Result("none", val, np.random.default_rng(seed).random(images) < level, test)


def known():
    """StableRep is better than SimCLR at every guidance; val says w = 2 for one and w = 1 for the other."""
    found = {}
    for seed in (0, 1, 2):
        for w, stablerep, simclr in ((1.0, 0.90, 0.8), (2.0, 0.93, 0.79), (4.0, 0.91, 0.78)):
            found[Cell("digits", "stablerep", "synthetic", w, seed)] = result(10 * seed + int(w), stablerep, stablerep)
            found[Cell("digits", "simclr", "synthetic", w, seed)] = result(10 * seed + int(w), simclr, simclr)
        found[Cell("digits", "simclr", "real", None, seed)] = result(10 * seed + 1, 0.8, 0.8)
    return found


def test_results_survive_the_file(tmp_path):
    path = tmp_path / "results.json"
    encoder_study.write_results(known(), path)
    again = encoder_study.read_results(path)
    assert again.keys() == known().keys()
    for cell, one in known().items():
        np.testing.assert_array_equal(again[cell].correct, one.correct)
        assert (again[cell].val_top1, again[cell].labels_seen, again[cell].test) == (one.val_top1, "none", "t")
    content = path.read_bytes()
    encoder_study.write_results(dict(reversed(again.items())), path)
    assert path.read_bytes() == content


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The files that the table reads and writes."""
    for name in ("params.yaml", "profiles/digits.yaml", "docs/encoders.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_guidance_is_chosen_on_val_and_only_when_all_is_run(place):
    found = encoder_table.by_row(known())
    assert encoder_table.best(found, "digits", "stablerep") == Row("digits", "stablerep", "synthetic", 2.0)
    assert encoder_table.best(found, "digits", "simclr") == Row("digits", "simclr", "synthetic", 1.0)
    assert encoder_table.choice(found, "digits") == "Guidance chosen on real val: stablerep w = 2, simclr w = 1."
    assert encoder_table.best(found, "cifake-cpu", "simclr") is None
    assert encoder_table.choice(found, "cifake-cpu").endswith("stablerep not run, simclr not run.")
    del found[Row("digits", "simclr", "synthetic", 4.0)][2]
    assert encoder_table.best(found, "digits", "simclr") is None


def test_the_answers(place):
    text = encoder_table.comparisons(encoder_table.by_row(known()), "digits")
    rows = {row.split("|")[1].strip(): row for row in text.splitlines()[2:]}
    same = rows["StableRep against SimCLR on the same synthetic images, w = 2"]
    points, low, high = map(float, re.search(r"\+(\d+\.\d) \(\+(\d+\.\d) to \+(\d+\.\d)\)", same).groups())
    cells = [cell for cell in known() if cell.guidance == 2]
    means = {m: np.mean([known()[c].correct.mean() for c in cells if c.method == m]) for m in ("stablerep", "simclr")}
    assert points == pytest.approx(100 * (means["stablerep"] - means["simclr"]), abs=0.06)
    assert 0 < low < points < high
    assert "these two training procedures" in same
    assert "| +0.0 (+0.0 to +0.0) | 1 |" in rows["SimCLR: synthetic images at its w against real ones"]
    assert "not run" in rows["StableRep at its w against SupCon on real images"]
    assert "not run" in encoder_table.comparisons(encoder_table.by_row(known()), "cifake-cpu")


def test_one_seed_speaks_of_two_models_and_other_test_images_are_refused(place):
    one = {cell: found for cell, found in known().items() if cell.seed == 0}
    assert "these two trained models" in encoder_table.comparisons(encoder_table.by_row(one), "digits")
    one[Cell("digits", "simclr", "synthetic", 2.0, 0)] = result(0, 0.8, 0.8, test="other")
    with pytest.raises(BadInput, match="different test images"):
        encoder_table.comparisons(encoder_table.by_row(one), "digits")


def test_the_page_is_written_between_its_marks_and_again_the_same(place):
    before = (place / "docs" / "encoders.md").read_text()
    encoder_study.write_results(known(), place / "docs" / "encoder-study.json")
    assert encoder_table.main() == 0
    page = (place / "docs" / "encoders.md").read_text()
    pictures = {path.name: path.read_bytes() for path in (place / "docs" / "pictures").iterdir()}
    assert page.split(encoder_table.BEGIN)[0] == before.split(encoder_table.BEGIN)[0]
    assert page.split(encoder_table.END)[1] == before.split(encoder_table.END)[1]
    assert "| stablerep on synthetic, w = 2 | none | 3 | 93.0, chosen |" in page
    assert "| mae on fake | | 0 | not run | not run |" in page
    assert "-S guidance=4 -S '++encoders.simclr-synthetic={method:simclr,source:synthetic}'" in page
    assert pictures.keys() == {"encoders-digits-guidance.svg"}
    encoder_table.main()
    assert (place / "docs" / "encoders.md").read_text() == page
    assert {path.name: path.read_bytes() for path in (place / "docs" / "pictures").iterdir()} == pictures


@pytest.mark.dvc
def test_a_cell_is_queued_run_and_collected_for_real(tmp_path):
    """One experiment of the tiny study: two encoders on synthetic images of guidance 1."""
    from tests.tiny import make_repository, run

    folder = tmp_path / "repository"
    make_repository(folder)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "encoders.md", folder / "docs")
    queue = ("python", "-m", "tools.encoder_study", "queue", "guidance", "tiny", "--seeds", "0", "--limit", "1")
    assert "encoders-tiny-w1-s0: stablerep-synthetic, simclr-synthetic" in run(folder, *queue)
    assert "encoders-tiny-w1-s0: waits" in run(folder, *queue)
    run(folder, "dvc", "exp", "run", "--run-all")
    assert "encoders-tiny-w2-s0:" in run(folder, *queue)  # the first is an experiment now
    assert "encoders-tiny-unguided-s0: supcon-real, simclr-real" in run(folder, *queue[:-2])
    rest = run(folder, *queue[:4], "fakes", *queue[5:-2])  # what stands on real images waits already
    assert "encoders-tiny-unguided-s0-2: supcon-fake, simclr-fake, mae-fake\n" in rest
    run(folder, "dvc", "queue", "remove", "--all")
    assert "2 cells, 2 of them new" in run(folder, "python", "-m", "tools.encoder_study", "collect")
    assert "2 cells, 0 of them new" in run(folder, "python", "-m", "tools.encoder_study", "collect")
    found = encoder_study.read_results(folder / "docs" / "encoder-study.json")
    shown = yaml.safe_load(
        run(folder, "git", "show", f"{experiment_of(folder)}:metrics/probe_encoder/simclr-synthetic.json")
    )
    one = found[Cell("tiny", "simclr", "synthetic", 1.0, 0)]
    assert (one.correct.mean(), one.val_top1) == (shown["top1"], shown["val_top1"])
    run(folder, "dvc", "exp", "remove", "--all-commits")
    assert "encoders-tiny-w2-s0:" in run(folder, *queue)  # collected, so not run again
    text = run(folder, "python", "-m", "tools.encoder_table")
    assert "| simclr on synthetic, w = 1 | none | 1 |" in text
    assert "| simclr on synthetic, w = 4 | | 0 | not run | not run |" in text


def experiment_of(folder):
    from tests.tiny import run

    return (
        run(folder, "git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").split("\n")[0].split()[0]
    )
