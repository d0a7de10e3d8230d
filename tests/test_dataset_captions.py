"""The captions of a split."""

import pytest

from stages.artifacts import BadInput
from stages.dataset.captions import load_captions
from stages.dataset.shards import Row, write_shards


def test_each_number_has_its_text(tmp_path):
    texts = {7: "a seven", 3: "a three", 11: "ein Größer"}
    rows = [Row(b"", "x.png", 0, text, number) for number, text in texts.items() for _ in range(3)]
    write_shards(tmp_path, "train", rows, ("one",))
    assert load_captions(tmp_path, "train") == texts


@pytest.mark.parametrize("captioned", [0, 2])
def test_images_without_captions_are_refused(tmp_path, captioned):
    rows = [Row(b"", "x.png", 0)] + [Row(b"", "x.png", 0, "text", 1)] * captioned
    write_shards(tmp_path, "train", rows, ("one",))
    with pytest.raises(BadInput, match=r"some train images were made from no caption, which .* clip and stablerep\+"):
        load_captions(tmp_path, "train")
