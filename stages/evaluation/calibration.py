"""Temperature scaling: one number that makes a classifier as sure as it is right. Never imports torch."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of the temperature; only a classifier that makes no mistake, or nothing else, reaches them."""


def fit_temperature(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> float:
    """The T > 0 that makes softmax(logits / T) likeliest (Guo et al., "On Calibration of Modern Neural Networks").

    Fitted on validation images. It leaves what is predicted as it is, and changes how surely.

    Args:
        labels: (images,), class indices.
        logits: (images, classes).
    """
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = wide / np.exp(log_temperature)
        largest = scaled.max(axis=1)
        normalizers = largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1))
        return float((normalizers - scaled[np.arange(len(labels)), labels]).mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))  # the loss has one minimum in 1 / T, so also in log T
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))
