"""Weights for FID's Inception that nobody trained: the published ones can't be had everywhere."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as published


def save_inception(path: Path) -> Path:
    """Writes random weights of the real network as safetensors, and beside them in the published form, `.pth`."""
    with pytest.MonkeyPatch.context() as patch:  # its constructor asks for weights to load
        patch.setattr(published, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(published.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = published.FeatureExtractorInceptionV3("inception", ["2048"])
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # as strong as its input, so that 90 layers leave something to compare
            nn.init.kaiming_normal_(module.weight, generator=generator)
    save_file(network.state_dict(), path)
    torch.save(network.state_dict(), path.with_suffix(".pth"))
    return path
