"""The Vendi score: how many images, all unlike each other, a set is worth."""

import torch


def vendi_score(features: torch.Tensor) -> float:
    """exp(-sum of l ln l) over the eigenvalues l of K / n, where K holds all cosine similarities.

    Friedman and Dieng, "The Vendi Score", 2023, definition 3.1 with the cosine kernel. Where there are fewer dimensions
    than images the same non-zero eigenvalues are taken of X^T X / n (section 3.2). It grows with n: compare sets of
    one size.

    Args:
        features: (n, D), n >= 1; a row of zeros resembles nothing.

    Returns:
        From 1, all images point the same way, to min(n, D).
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1, eps=torch.finfo(torch.float64).tiny)
    count, dimensions = unit.shape
    gram = unit.T @ unit if dimensions < count else unit @ unit.T
    eigenvalues = torch.linalg.eigvalsh(gram / count).clamp(min=0)
    return float(torch.special.entr(eigenvalues).sum().exp())
