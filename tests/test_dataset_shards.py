import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.artifacts import BadInput, digest
from stages.dataset import codec, shards
from stages.sections import Codec

PNG = Codec(format="png", quality=None)


def picture(seed, size=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return Image.fromarray(pixels)


def rows(count, **facts):
    for i in range(count):
        yield shards.Row(image=codec.encode(picture(i), PNG), path=f"{i}.png", label=i % 3, **facts)


def test_rows_come_back(tmp_path):
    real = list(rows(5))
    made = shards.Row(
        b"x", "m.png", 2, "a two", 7, 2**62, {"guidance": 2.5, "num_inference_steps": 20, "sample_index": 3}
    )
    assert shards.write_shards(tmp_path, "train", [*real, made], "abc") == 6
    assert list(shards.read_rows(tmp_path, "train")) == [*real, made]
    assert shards.read_class_names(tmp_path, "train") == ("a", "b", "c")
    assert shards.num_rows(tmp_path, "train") == 6
    assert [p.name for p in tmp_path.iterdir()] == ["train-00000-of-00001.parquet"]


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        shards.write_shards(tmp_path / name, "val", rows(50, caption="é", caption_id=1, seed=2), "abc")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_large_splits_are_cut_into_shards_and_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    monkeypatch.setattr(shards, "GROUP_BYTES", 500)
    written = list(rows(40))
    assert shards.write_shards(tmp_path, "train", iter(written), "abc") == 40
    paths = shards.shard_paths(tmp_path, "train")
    assert len(paths) > 2
    assert paths[0].name == f"train-00000-of-{len(paths):05d}.parquet"
    assert list(shards.read_rows(tmp_path, "train")) == written
    for path in paths:
        table = pq.read_table(path)
        assert 0 < sum(len(image["bytes"]) for image in table["image"].to_pylist()) <= 2000
    paths[1].unlink()
    with pytest.raises(BadInput, match="missing"):
        shards.read_class_names(tmp_path, "train")


def test_rows_are_streamed(tmp_path, monkeypatch):
    """The writer asks for no more rows than a row group holds before it writes them."""
    monkeypatch.setattr(shards, "GROUP_ROWS", 4)
    groups = []
    table = shards._table
    monkeypatch.setattr(shards, "_table", lambda group, *rest: groups.append(asked) or table(group, *rest))
    asked = 0

    def counted():
        nonlocal asked
        for row in rows(12):
            asked += 1
            yield row

    shards.write_shards(tmp_path, "train", counted(), "abc")
    assert groups == [4, 8, 12]


def test_datasets_sees_images_and_class_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    shards.write_shards(tmp_path / "data", "train", rows(7, caption="a", caption_id=3, seed=4), ["x", "y", "z"])
    files = {"train": str(tmp_path / "data" / "train-*.parquet")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    features = loaded["train"].features
    assert features["image"] == datasets.Image()
    assert features["label"] == datasets.ClassLabel(names=["x", "y", "z"])
    assert features["guidance"] == datasets.Value("float64")
    assert np.array_equal(np.asarray(loaded["train"][4]["image"]), np.asarray(picture(4)))
    assert loaded["train"]["label"][:] == [i % 3 for i in range(7)]


def test_a_split_of_no_rows_is_a_valid_shard(tmp_path):
    assert shards.write_shards(tmp_path, "train", [], ["x", "y"]) == 0
    table = pq.read_table(tmp_path / "train-00000-of-00001.parquet")
    assert table.num_rows == 0
    assert table.column_names[:2] == ["image", "label"]
    assert list(shards.read_rows(tmp_path, "train")) == []
    assert shards.read_class_names(tmp_path, "train") == ("x", "y")


def test_a_label_without_a_name_and_an_unknown_setting_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"label 2 of 2\.png"):
        shards.write_shards(tmp_path, "train", rows(5), "ab")
    with pytest.raises(ValueError, match="'colour'"):
        shards.write_shards(tmp_path, "train", rows(1, settings={"colour": 1}), "abc")
    assert not list(tmp_path.glob("*.parquet"))
