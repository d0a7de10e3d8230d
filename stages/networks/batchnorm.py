"""Batch norm over fixed groups of images, so that results don't depend on how a batch is cut up.

"Ghost batch norm" (Hoffer, Hubara and Soudry 2017, algorithm 1), with running statistics that are averaged over all
groups of the global batch: any number of processes and micro-batches gives the same network. torch's SyncBatchNorm
takes statistics over the whole global batch instead, and has no CPU path.
"""

import itertools
from collections.abc import Iterable
from typing import Final

import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.autograd.function import FunctionCtx

MOMENTUM: Final = 0.1
EPSILON: Final = 1e-5


class _GroupBatchNorm(nn.Module):
    """What the one- and the two-dimensional norm share: statistics per group, running ones for evaluation."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_features: int, group: int) -> None:
        """Takes the number of channels and of consecutive images that share statistics."""
        super().__init__()
        self.group = group
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self._pending: list[torch.Tensor] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalises (B, C, ...) per channel: in training over each group of B, otherwise by running statistics.

        Raises:
            ValueError: in training, B is no whole number of groups.
            RuntimeError: in evaluation, the statistics of training passes were never folded in (`track`).
        """
        if not self.training:
            if self._pending:
                raise RuntimeError("statistics of training passes are pending; call track(network, optimizer) first")
            return F.batch_norm(
                inputs, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=EPSILON
            )
        if len(inputs) % self.group:
            raise ValueError(f"a batch of {len(inputs)} is no whole number of groups of {self.group} images")
        outputs = [self._normalize(part) for part in inputs.chunk(len(inputs) // self.group)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _normalize(self, inputs: torch.Tensor) -> torch.Tensor:
        # With momentum 1 the "running" statistics become this group's mean and unbiased variance.
        statistics = torch.zeros(2, len(self.weight), dtype=self.running_mean.dtype, device=inputs.device)
        mean, variance = statistics
        outputs = F.batch_norm(inputs, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=EPSILON)
        self._pending.append(statistics)
        return outputs

    def extra_repr(self) -> str:
        """Channels and group, for `print(network)`."""
        return f"{len(self.weight)}, group={self.group}"


class GroupBatchNorm1d(_GroupBatchNorm):
    """For features (B, C); equals `nn.BatchNorm1d` where the group is the batch."""


class GroupBatchNorm2d(_GroupBatchNorm):
    """For feature maps (B, C, H, W); equals `nn.BatchNorm2d` where the group is the batch."""


class SharedBatchNorm1d(_GroupBatchNorm):
    """For features (B, C) whose groups lie on several processes: statistics over each group of the global batch.

    As SyncBatchNorm, which has no CPU path, but for groups. Every process must call it with as many rows.
    """

    def __init__(self, num_features: int, group: int, batch_size: int) -> None:
        """Takes a global batch size of which every process has an equal share, in the order of ranks."""
        super().__init__(num_features, group)
        self.batch_size = batch_size

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalises (k * share, C), k global batches of which this process has its share, one after another.

        Raises:
            RuntimeError: in evaluation, as for the other norms.
        """
        if not self.training:
            return super().forward(inputs)
        share = self.batch_size // distributed.get_world_size()
        rows = torch.arange(len(inputs), device=inputs.device)
        places = rows // share * self.batch_size + distributed.get_rank() * share + rows % share
        groups = places // self.group
        num_groups = len(inputs) // share * self.batch_size // self.group
        precise = inputs.to(torch.promote_types(inputs.dtype, torch.float32))  # autocast may have left bfloat16
        means = self._mean(precise, groups, num_groups)
        centred = precise - means[groups]
        variances = self._mean(centred.square(), groups, num_groups)
        unbiased = variances * self.group / (self.group - 1)
        self._pending += torch.stack([means, unbiased], 1).detach().to(self.running_mean.dtype).unbind()
        return (centred * (variances + EPSILON).rsqrt()[groups] * self.weight + self.bias).to(inputs.dtype)

    def _mean(self, values: torch.Tensor, groups: torch.Tensor, num_groups: int) -> torch.Tensor:
        """Means (num_groups, C) over all processes."""
        totals = values.new_zeros(num_groups, values.shape[1]).index_add(0, groups, values)
        mean: torch.Tensor = _Sum.apply(totals) / self.group
        return mean


def batch_norm_1d(num_features: int, group: int, batch_size: int) -> GroupBatchNorm1d | SharedBatchNorm1d:
    """Batch norm of features (B, num_features) over groups of a global batch, wherever these lie."""
    share = batch_size // (distributed.get_world_size() if _is_shared() else 1)
    if share % group:
        return SharedBatchNorm1d(num_features, group, batch_size)
    return GroupBatchNorm1d(num_features, group)


class _Sum(torch.autograd.Function):
    """The sum of all processes' tensors, on each; its backward pass sums their gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _is_shared() -> bool:
    """Whether there are other processes."""
    return distributed.is_available() and distributed.is_initialized()


def track(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Has every step of `optimizer` end with `update_running_statistics(network)`."""
    norms = [module for module in network.modules() if isinstance(module, _GroupBatchNorm)]
    optimizer.register_step_post_hook(lambda *_: _update(norms))


def update_running_statistics(network: nn.Module) -> None:
    """Moves running statistics towards the mean over all groups since the last call, on all processes.

    One update per optimizer step, not per forward pass: micro-batches don't change the result.
    """
    _update([module for module in network.modules() if isinstance(module, _GroupBatchNorm)])


@torch.no_grad()
def _update(norms: Iterable[_GroupBatchNorm]) -> None:
    used = [norm for norm in norms if norm._pending]
    if not used:
        return
    means = torch.cat([torch.stack(norm._pending).mean(0) for norm in used], dim=1)  # (2, sum of C)
    if _is_shared():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    ends = list(itertools.accumulate(len(norm.weight) for norm in used))[:-1]
    for norm, (mean, variance) in zip(used, means.tensor_split(ends, dim=1), strict=True):
        norm.running_mean.lerp_(mean, MOMENTUM)
        norm.running_var.lerp_(variance, MOMENTUM)
        norm._pending.clear()
