"""Learning rates as pure functions of the step, so that resuming needs to know nothing but the step."""

import math
from collections.abc import Callable


def warmup_cosine(peak: float, minimum: float, warmup_steps: int, num_steps: int) -> Callable[[int], float]:
    """Linear warmup to `peak`, then half a cosine down to `minimum` (Loshchilov and Hutter 2017, eq. 5, no restart).

    The first step already learns (`peak / warmup_steps`), the last warmup step and the one after it have `peak`, and
    the last step of all has `minimum`.

    Returns:
        The learning rate of a step in [0, num_steps).
    """
    decay_steps = max(1, num_steps - 1 - warmup_steps)

    def learning_rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / decay_steps)
        return minimum + (peak - minimum) * (1 + math.cos(math.pi * progress)) / 2

    return learning_rate
