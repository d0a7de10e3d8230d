"""The Fréchet distance between two sets of features; FID is its name for Inception's alone."""

import torch


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the two sets' means and covariances.

    Dowson and Landau 1982; Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, equation 6. The root's
    trace is the sum of the singular values of R1 R2^T for any factors Ci = Ri^T Ri, here those of a QR decomposition
    of the centred features: no covariance is ever squared or rooted, so rank and rounding do no harm. It falls with the
    number of images: compare sets of one size.

    Args:
        first: (n, D), n >= 2.
        second: (m, D), m >= 2.

    Returns:
        In squared units of the features; 0 for equal sets, up to rounding.
    """
    first, second = first.double(), second.double()
    factors = [_factor(features) for features in (first, second)]
    apart = (first.mean(0) - second.mean(0)).square().sum()
    traces = sum(factor.square().sum() for factor in factors)
    shared = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return float((apart + traces - 2 * shared).clamp(min=0))


def _factor(features: torch.Tensor) -> torch.Tensor:
    """R (min(n, D), D) with R^T R the unbiased covariance."""
    centred = features - features.mean(0)
    factor: torch.Tensor = torch.linalg.qr(centred, mode="r").R / (len(features) - 1) ** 0.5
    return factor
