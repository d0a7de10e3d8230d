import pytest
import torch

from stages.dataset.neighbours import nearest_distances, thumbnails


def images(count, seed, side=8):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed)).byte()


def slow(queries, reference):
    found = []
    for query in queries.double() / 255:
        found.append(min(float((query - other).square().mean().sqrt()) for other in reference.double() / 255))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("blocks", [(1024, 4096), (7, 5), (1, 1)])
def test_equals_the_slow_reference(blocks):
    queries, reference = images(23, 0), images(31, 1)
    assert torch.allclose(nearest_distances(queries, reference, *blocks), slow(queries, reference), rtol=1e-12)


def test_copies_have_distance_zero_among_near_copies():
    reference = images(50, 0, side=32)
    near = reference.clone()
    near[:, 0, 0, 0] ^= 1  # one grey level in one value of 3,072
    queries = reference[10:20]
    both = torch.cat([near, reference])
    assert nearest_distances(queries, both).tolist() == [0.0] * 10
    assert torch.allclose(
        nearest_distances(queries, near), torch.full((10,), (1 / 3072) ** 0.5 / 255, dtype=torch.float64)
    )


def test_units():
    black, white = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert nearest_distances(black, white).item() == 1
    assert nearest_distances(white, torch.cat([white, black])).item() == 0


def test_nothing_to_compare():
    assert nearest_distances(images(0, 0), images(3, 0)).shape == (0,)
    with pytest.raises(ValueError, match="no neighbours"):
        nearest_distances(images(3, 0), images(0, 0))
    with pytest.raises(ValueError, match="no neighbours"):
        nearest_distances(images(3, 0), images(3, 0, side=4))


def test_thumbnails_are_means_of_areas():
    images = torch.randint(0, 256, (70, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([69, 3, 3])
    means = images[rows].double().reshape(3, 3, 32, 2, 32, 2).mean((3, 5)).round()
    assert torch.equal(thumbnails(images, rows).double(), means)
    assert torch.equal(thumbnails(images)[rows], thumbnails(images, rows))
    small = images[:, :, :32, :32]
    assert torch.equal(thumbnails(small), small)
