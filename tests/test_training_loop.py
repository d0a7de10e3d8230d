"""The loop: killed anywhere it ends on the same bits, and no cut of the batch changes what it learns."""

import copy
import math

import pytest
import torch
from torch import nn

from stages.artifacts import BadInput
from stages.networks.batchnorm import GroupBatchNorm1d, track
from stages.training import checkpoint
from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.loop import Plan, fit, split_rows
from stages.training.objectives import cross_entropy
from stages.training.optimizer import adamw, parameter_groups
from stages.training.runtime import open_runtime
from stages.training.schedule import warmup_cosine

SEED, BATCH, GROUP, CLASSES = 3, 16, 4, 5


class Killed(Exception):
    pass


def make_network():
    torch.manual_seed(SEED)
    layers = (nn.Flatten(), nn.Linear(12, 16, bias=False), GroupBatchNorm1d(16, GROUP), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(*layers, nn.Linear(16, CLASSES))


def make_plan(**changes):
    settings = {
        "num_steps": 12,
        "batch_size": BATCH,
        "micro_batch_size": BATCH,
        "schedule": warmup_cosine(0.05, 0.0, 2, 12),
        "evaluate_every_steps": 4,
        "precision": "float32",
        "clip_norm": 1.0,
        "save_every_seconds": 0.0,
        "select": ("score",),
    }
    return Plan(**{**settings, **changes})


def make_batches(num_images=40, killed_at=math.inf):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (num_images, 3, 2, 2), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (num_images,), generator=generator)

    def transform(images, step, positions):
        if step == killed_at:
            raise Killed
        return images.float() / 255 + 0.01 * (positions + step).reshape(-1, 1, 1, 1)

    return LabelledBatches(images, labels, EpochOrder(num_images, BATCH, SEED), transform)


def score(network, step):
    """Falls and rises, so that the best evaluation is neither the first nor the last."""
    assert not network.training
    assert not torch.is_grad_enabled()
    return {"score": {4: 0.1, 8: 0.9, 12: 0.5}[step]}


def run(folder, batches=None, evaluate=score, **changes):
    runtime = open_runtime(SEED)
    network = make_network()
    optimizer = adamw(parameter_groups(network, 0.1), 0.9)
    track(network, optimizer)
    plan = make_plan(**changes)
    batches = batches or make_batches()
    return network, optimizer, fit(network, cross_entropy(0.1), batches, optimizer, plan, runtime, folder, evaluate)


def same(first, second):
    """Whether two nested structures are equal to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("kills", [(0,), (1,), (4,), (7,), (11,), (2, 3, 9)])
def test_killed_and_started_again_it_ends_on_the_same_bits(tmp_path, uninterrupted, kills):
    for step in kills:
        with pytest.raises(Killed):
            run(tmp_path, make_batches(killed_at=step))
    network, optimizer, result = run(tmp_path)
    expected_network, expected_optimizer, expected = uninterrupted
    assert same(network.state_dict(), expected_network.state_dict())
    assert same(optimizer.state_dict(), expected_optimizer.state_dict())
    assert result.history == expected.history
    assert same(vars(result.best["score"]), vars(expected.best["score"]))


def test_saves_seldom_when_told_so_and_still_resumes(tmp_path, uninterrupted):
    with pytest.raises(Killed):
        run(tmp_path, make_batches(killed_at=7), save_every_seconds=1e9)
    assert checkpoint.load(tmp_path)["step"] == 4  # the last evaluation
    assert same(run(tmp_path)[0].state_dict(), uninterrupted[0].state_dict())


def test_a_finished_run_is_not_run_again(tmp_path, uninterrupted):
    run(tmp_path)
    network, _, result = run(tmp_path, make_batches(killed_at=0))
    assert same(network.state_dict(), uninterrupted[0].state_dict())
    assert len(result.history) == 12


def test_a_torn_save_leaves_the_checkpoint_before_it(tmp_path):
    checkpoint.save(tmp_path, {"step": 1})
    (tmp_path / f".{checkpoint.NAME}.partial").write_bytes(b"half a file")
    assert checkpoint.load(tmp_path) == {"step": 1}
    checkpoint.save(tmp_path, {"step": 2})
    assert checkpoint.load(tmp_path) == {"step": 2}
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


def test_best_weights_are_copies_of_their_own_step(tmp_path):
    seen = {}

    def evaluate(network, step):
        seen[step] = copy.deepcopy(network.state_dict())
        return score(network, step)

    network, _, result = run(tmp_path, evaluate=evaluate)
    best = result.best["score"]
    assert (best.step, best.score) == (8, 0.9)
    assert same(best.state_dict, dict(seen[8]))
    assert not same(best.state_dict, dict(network.state_dict()))
    assert len(seen) == 3


def test_of_equal_scores_the_earliest_counts(tmp_path):
    _, _, result = run(tmp_path, evaluate=lambda network, step: {"score": 0.5})
    assert result.best["score"].step == 4


def test_micro_batches_give_the_full_batch(tmp_path):
    """In float64, without dropout: losses, weights and running statistics."""
    results = []
    for size in (16, 8, 4):
        runtime = open_runtime(SEED)
        network = make_network().double()
        network[4].p = 0.0
        optimizer = adamw(parameter_groups(network, 0.1), 0.9)
        track(network, optimizer)
        plan = make_plan(micro_batch_size=size)
        folder = tmp_path / str(size)
        batches = in_double(make_batches())
        results.append((network, fit(network, cross_entropy(0.1), batches, optimizer, plan, runtime, folder, score)))
    (whole, expected), *others = results
    for network, result in others:
        torch.testing.assert_close(network.state_dict(), whole.state_dict(), rtol=0, atol=1e-12)
        for row, expected_row in zip(result.history, expected.history, strict=True):
            assert row["loss"] == pytest.approx(expected_row["loss"], abs=1e-12)


def in_double(batches):
    def double(step, rows):
        batch = batches(step, rows)
        return {**batch, "images": batch["images"].double()}

    return double


def test_overfits_one_batch(tmp_path):
    _, _, result = run(
        tmp_path,
        make_batches(num_images=BATCH),
        num_steps=150,
        schedule=warmup_cosine(0.02, 0.0, 5, 150),
        evaluate=lambda network, step: {"score": step},
    )
    assert result.history[0]["train_top1"] < 0.6
    assert result.history[-1]["train_top1"] >= 15 / 16


def test_gradients_are_clipped(tmp_path):
    """With SGD of rate 1 the step is the gradient."""
    norms = {}
    for clip_norm in (None, 1e-3):
        runtime = open_runtime(SEED)
        network = make_network()
        before = copy.deepcopy(list(network.parameters()))
        optimizer = torch.optim.SGD(parameter_groups(network, 0.0), lr=0.0)
        track(network, optimizer)
        plan = make_plan(num_steps=1, schedule=lambda step: 1.0, clip_norm=clip_norm)
        fit(network, cross_entropy(0.1), make_batches(), optimizer, plan, runtime, tmp_path / str(clip_norm), None)
        moved = [(p - b).detach() for p, b in zip(network.parameters(), before, strict=True)]
        norms[clip_norm] = float(torch.cat([m.flatten() for m in moved]).norm())
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[None] > 0.05


def test_each_group_has_its_share_of_the_rate(tmp_path):
    runtime = open_runtime(SEED)
    network = make_network()
    groups = parameter_groups(network, 0.1, lambda name: 0.5 if name.startswith("1.") else 1.0)
    optimizer = adamw(groups, 0.9)
    rates = []
    optimizer.register_step_post_hook(lambda o, *_: rates.append({g["rate_scale"]: g["lr"] for g in o.param_groups}))
    track(network, optimizer)
    plan = make_plan()
    result = fit(network, cross_entropy(0.1), make_batches(), optimizer, plan, runtime, tmp_path, None)
    assert rates == [{0.5: 0.5 * plan.schedule(step), 1.0: plan.schedule(step)} for step in range(12)]
    assert [row["lr"] for row in result.history] == [plan.schedule(step) for step in range(12)]


def test_a_loss_that_is_not_finite_names_stage_and_step(tmp_path):
    batches = make_batches()

    def broken(step, rows):
        batch = batches(step, rows)
        return {**batch, "images": batch["images"] * (math.inf if step == 5 else 1)}

    folder = tmp_path / "train_cnn-real-0123"
    with pytest.raises(BadInput, match=r"train_cnn-real-0123: the loss became nan at step 5"):
        run(folder, broken)
    assert checkpoint.load(folder)["step"] == 5  # the good steps 0 to 4; nothing later was saved


def test_a_score_that_is_not_a_number_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"score: is not a number after 4 steps"):
        run(tmp_path, evaluate=lambda network, step: {"score": float("nan")})


@pytest.mark.parametrize(
    ("batch_size", "micro", "processes", "rank", "expected"),
    [
        (16, 16, 1, 0, [(0, 16)]),
        (16, 4, 1, 0, [(0, 4), (4, 8), (8, 12), (12, 16)]),
        (16, 4, 2, 1, [(8, 12), (12, 16)]),
        (16, 16, 4, 2, [(8, 12)]),
        (12, 4, 5, 0, None),
        (12, 8, 1, 0, None),
        (2, 1, 4, 0, None),
    ],
)
def test_rows_are_shared_out(monkeypatch, batch_size, micro, processes, rank, expected):
    runtime = open_runtime(SEED)
    monkeypatch.setattr(runtime, "num_processes", processes)
    monkeypatch.setattr(runtime, "rank", rank)
    plan = make_plan(batch_size=batch_size, micro_batch_size=micro)
    if expected is None:
        with pytest.raises(BadInput, match="batch_size: "):
            split_rows(plan, runtime)
    else:
        assert [(r.start, r.stop) for r in split_rows(plan, runtime)] == expected
