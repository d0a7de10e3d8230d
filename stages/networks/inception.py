"""The Inception network of the published FID, from a file of the user's."""

import io
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stages.artifacts import BadInput

FEATURES = "2048"
"""The layer that FID is taken in: the average-pooled one, of as many features."""
ADVICE = "name torch-fidelity's weights-inception-2015-12-05-6726825d.pth as safetensors (docs/settings.md converts it)"


class Inception(nn.Module):
    """Maps uint8 (N, 3, H, W) of any size to float32 (N, 2048).

    torch-fidelity's, which resizes and computes as the TensorFlow graph of 2015-12-05 does that FID is defined by
    (Heusel et al. 2017); torchvision's Inception is another network.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The features of images."""
        features: torch.Tensor = self.extractor(images)[0]
        return features


def load(path: Path) -> Inception:
    """Loads weights, without gradients.

    Raises:
        BadInput: no such file, not safetensors, or not this network's.
    """
    # Here, since few studies have the weights and importing it takes a second.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if not path.is_file():
        raise BadInput(f"inception_path: {path} is no file; {ADVICE}")
    try:
        # torch-fidelity unpickles whatever it is given, so what it gets is written here.
        checked = io.BytesIO()
        torch.save(load_file(path), checked)
        checked.seek(0)
        return Inception(FeatureExtractorInceptionV3("inception", [FEATURES], feature_extractor_weights_path=checked))
    except (SafetensorError, RuntimeError) as error:  # not readable, not this network's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"inception_path: {path} does not hold the weights of FID's Inception ({reason}); {ADVICE}"
        ) from None
