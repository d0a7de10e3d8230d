"""The captions of a split, for the methods that read them. Never imports torch."""

from pathlib import Path

import pyarrow.parquet as pq

from stages.artifacts import BadInput
from stages.dataset.shards import NO_CAPTION, shard_paths


def load_captions(folder: Path, name: str) -> dict[int, str]:
    """The text of each `caption_id` of a split, from these two columns of its shards alone.

    Raises:
        BadInput: the folder has no such split, or an image was made from no caption.
    """
    captions: dict[int, str] = {}
    for path in shard_paths(folder, name):
        ids, texts = pq.read_table(path, columns=["caption_id", "caption"], use_threads=False).columns
        captions |= dict(zip(ids.to_pylist(), texts.to_pylist(), strict=True))
    if NO_CAPTION in captions or any(text is None for text in captions.values()):
        raise BadInput(
            f"{folder}: some {name} images were made from no caption, which the methods clip and stablerep+ read; "
            "pretrain them on source synthetic, or use another method"
        )
    return captions
