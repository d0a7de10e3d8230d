"""FID's Inception from a file of the user's: the published network, and no code that a file may carry."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.image.fid import NoTrainInceptionV3

from stages.artifacts import BadInput
from stages.networks import inception
from tests.tiny_inception import save_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_inception(tmp_path_factory.mktemp("weights") / "inception.safetensors")


def test_features_are_torchmetrics(weights):
    images = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    reference = NoTrainInceptionV3("fid", ["2048"], str(weights.with_suffix(".pth")), antialias=False)
    found = inception.load(weights)(images)
    assert found.shape == (3, 2048)
    assert found.std(0).mean() > 1e-3, "images differ, and so do their features"
    torch.testing.assert_close(found, reference(images), rtol=1e-5, atol=1e-6)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_other_files_are_refused_in_one_line_and_not_executed(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = load_file(weights)
    files = {
        "missing.pth": None,
        "text.pth": b"not found",
        "empty.pth": b"",
        "trap.pth": pickle.dumps(Trap(), protocol=2),
    }
    files["cut.pth"] = weights.read_bytes()[:100_000]
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    save_file({**state, "fc.weight": torch.zeros(2, 2)}, "shape.pth")
    save_file({key: value for key, value in state.items() if "Mixed" not in key}, "part.pth")
    torch.save(state, "published.pth")
    torch.save([1, 2], "list.pth")
    torch.save(Trap(), "trap.zip.pth")
    for name in (*files, "shape.pth", "part.pth", "list.pth", "trap.zip.pth", "published.pth"):
        with pytest.raises(BadInput, match=rf"^inception_path: {name} .*weights-inception-2015-12-05") as caught:
            inception.load(tmp_path.joinpath(name).relative_to(tmp_path))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()
