"""The one training loop. What differs between trainers is the objective, the parameter groups and the batches."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from tqdm import tqdm

from stages.artifacts import BadInput
from stages.sections import Optimization, Precision
from stages.training import checkpoint
from stages.training.runtime import Runtime
from stages.training.schedule import warmup_cosine

Batch = dict[str, torch.Tensor]
Objective = Callable[[Any, Batch], Mapping[str, torch.Tensor]]
Batches = Callable[[int, range], Batch]
Evaluate = Callable[[nn.Module, int], Mapping[str, float]]

SAVE_EVERY_SECONDS = 30.0
MAX_LOSS_ROWS = 200
"""Rows of the loss curve between evaluations, each a mean over the steps since the row before."""


@dataclass(frozen=True)
class Plan:
    """How many steps of what size, and when to look."""

    num_steps: int
    """Optimizer steps."""
    batch_size: int
    """Rows of the global batch, over all processes and micro-batches."""
    micro_batch_size: int
    """Rows per process and forward pass, at most."""
    schedule: Callable[[int], float]
    """The learning rate of a step."""
    evaluate_every_steps: int
    """Steps between two evaluations; the last step always has one."""
    precision: Precision
    """Of the forward pass."""
    clip_norm: float | None
    """Largest global gradient norm."""
    save_every_seconds: float
    """About how much work a kill may lose; evaluations are saved always."""
    select: tuple[str, ...]
    """Keys of the evaluation for which the best weights are kept; higher is better."""

    @classmethod
    def of(cls, settings: Optimization, select: tuple[str, ...]) -> Self:
        """The plan of a profile's `optimization` section: linear warmup, then half a cosine."""
        return cls(
            num_steps=settings.num_steps,
            batch_size=settings.batch_size,
            micro_batch_size=settings.micro_batch_size,
            schedule=warmup_cosine(
                settings.learning_rate, settings.min_learning_rate, settings.warmup_steps, settings.num_steps
            ),
            evaluate_every_steps=settings.evaluate_every_steps,
            precision=settings.precision,
            clip_norm=settings.clip_norm,
            save_every_seconds=SAVE_EVERY_SECONDS,
            select=select,
        )

    def has_evaluation(self, done: int) -> bool:
        """Whether there is an evaluation, and a checkpoint, after `done` steps."""
        return done % self.evaluate_every_steps == 0 or done == self.num_steps

    def has_row(self, done: int) -> bool:
        """Whether the history gets a row after `done` steps."""
        return done % -(-self.num_steps // MAX_LOSS_ROWS) == 0 or self.has_evaluation(done)


@dataclass(frozen=True)
class Best:
    """The best evaluation of one kind."""

    step: int
    """Steps done; of equal scores the earliest."""
    score: float
    """What was selected on."""
    state_dict: dict[str, torch.Tensor]
    """The weights at that step, copied to the CPU."""


@dataclass
class FitResult:
    """What training leaves behind beside the weights in the network."""

    best: dict[str, Best] = field(default_factory=dict)
    """Per key of `Plan.select`."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Rows of {"step": steps done, "lr", the objective's values as means since the row before, evaluations}."""


def fit(
    network: nn.Module,
    objective: Objective,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    runtime: Runtime,
    scratch: Path,
    evaluate: Evaluate | None,
) -> FitResult:
    """Trains `network` in place, going on from `scratch` where an earlier call was killed, to the same bits.

    Any split into processes and micro-batches gives the mean loss over the global batch and its gradient. Everything
    random is a function of the seed and the step, so a checkpoint holds weights, optimizer, history and best weights.
    State that should live along, such as a moving average that `optimizer.register_step_post_hook` updates, belongs
    into `optimizer.state[parameter]` or into buffers of `network`: both are in the checkpoint.

    Args:
        network: on the runtime's device already.
        objective: `(network, rows of a batch)` to {"loss": mean over the rows, ...}, scalars. Calls `network` itself,
            not its parts: with several processes it is wrapped.
        batches: a pure function of the step and of positions in its global batch.
        optimizer: its groups may carry a `rate_scale`, a factor on the schedule's learning rate.
        plan: sizes and times.
        runtime: device and processes.
        scratch: folder of the checkpoint, this loop's alone.
        evaluate: `(network in eval mode, steps done)` to scores, on every process the same; or nothing to evaluate.

    Raises:
        BadInput: the batch can't be split over the processes, or the loss is not finite.
    """
    split_rows(plan, runtime)
    runtime.barrier()  # until rank 0 holds the stage's lock, another run may still write the checkpoint
    prepared = runtime.prepare(network)
    first, result = _resume(scratch, network, optimizer)
    pending: list[dict[str, torch.Tensor]] = []
    saved = time.monotonic()
    network.train()
    with tqdm(total=plan.num_steps, initial=first, disable=None if runtime.is_main else True) as progress:
        for step in range(first, plan.num_steps):
            pending.append(_step(prepared, objective, batches, optimizer, plan, runtime, step))
            done = step + 1
            progress.update()
            if not plan.has_row(done):
                continue
            row = {"step": done, "lr": plan.schedule(step), **_means(pending, done, runtime, scratch)}
            pending.clear()
            if plan.has_evaluation(done) and evaluate is not None:
                row |= _evaluated(network, evaluate, done, plan.select, result)
            result.history.append(row)
            progress.set_postfix({key: f"{value:.4g}" for key, value in row.items() if key != "step"}, refresh=False)
            # Processes agree on when to save by the mean of their clocks.
            elapsed = runtime.mean(torch.tensor(time.monotonic() - saved, device=runtime.device))
            if plan.has_evaluation(done) or float(elapsed) >= plan.save_every_seconds:
                _save(scratch, network, optimizer, done, result, runtime)
                saved = time.monotonic()
    return result


def split_rows(plan: Plan, runtime: Runtime) -> list[range]:
    """This process's micro-batches: positions in the global batch.

    Raises:
        BadInput: the global batch is no whole number of equal micro-batches.
    """
    local, rest = divmod(plan.batch_size, runtime.num_processes)
    size = min(plan.micro_batch_size, local)
    if rest or size == 0 or local % size:
        raise BadInput(
            f"batch_size: {plan.batch_size} is no whole number of micro-batches of {size} on each of "
            f"{runtime.num_processes} processes; change the batch, the micro-batch or the processes"
        )
    start = runtime.rank * local
    return [range(first, first + size) for first in range(start, start + local, size)]


def _step(
    prepared: nn.Module,
    objective: Objective,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    runtime: Runtime,
    step: int,
) -> dict[str, torch.Tensor]:
    """One optimizer step; returns this process's means, detached."""
    runtime.seed_step(step)
    for group in optimizer.param_groups:
        group["lr"] = plan.schedule(step) * group.get("rate_scale", 1.0)
    totals: dict[str, torch.Tensor] = {}
    micro_batches = split_rows(plan, runtime)
    share = 1 / len(micro_batches)
    optimizer.zero_grad(set_to_none=True)
    for index, rows in enumerate(micro_batches):
        batch = batches(step, rows)
        with runtime.accumulate(prepared, index == len(micro_batches) - 1):
            with runtime.autocast(plan.precision):
                values = objective(prepared, batch)
            torch.autograd.backward(values["loss"] * share)
        for key, value in values.items():
            totals[key] = totals.get(key, 0) + value.detach() * share
    if plan.clip_norm is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], plan.clip_norm)
    optimizer.step()
    return totals


def _means(pending: list[dict[str, torch.Tensor]], done: int, runtime: Runtime, scratch: Path) -> dict[str, float]:
    """Means over the pending steps (the last of the `done` ones) and over processes."""
    rows = {key: runtime.mean(torch.stack([values[key] for values in pending])).double().cpu() for key in pending[0]}
    finite = torch.isfinite(rows["loss"])
    if not bool(finite.all()):
        first = int(torch.nonzero(~finite)[0])
        raise BadInput(
            f"{scratch.name}: the loss became {float(rows['loss'][first])} at step {done - len(pending) + first}; "
            "lower the learning rate, set clip_norm, or use precision float32"
        )
    return {key: float(values.mean()) for key, values in rows.items()}


def _evaluated(
    network: nn.Module, evaluate: Evaluate, done: int, select: tuple[str, ...], result: FitResult
) -> dict[str, float]:
    """Scores after `done` steps; keeps the weights where one is the best so far."""
    network.eval()
    with torch.no_grad():
        scores = dict(evaluate(network, done))
    network.train()
    for key in select:
        if math.isnan(scores[key]):
            raise BadInput(f"{key}: is not a number after {done} steps, so nothing can be selected on it")
        if key not in result.best or scores[key] > result.best[key].score:
            result.best[key] = Best(done, scores[key], checkpoint.copy_to_cpu(network))
    return scores


def _save(
    scratch: Path, network: nn.Module, optimizer: torch.optim.Optimizer, done: int, result: FitResult, runtime: Runtime
) -> None:
    if runtime.is_main:
        state = {
            "step": done,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": {key: vars(best) for key, best in result.best.items()},
            "history": result.history,
        }
        checkpoint.save(scratch, state)


def _resume(scratch: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, FitResult]:
    state = checkpoint.load(scratch)
    if state is None:
        return 0, FitResult()
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], FitResult({key: Best(**best) for key, best in state["best"].items()}, state["history"])
