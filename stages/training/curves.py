"""Learning curves as DVCLive writes them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dvclive import Live


def write_curves(folder: Path, history: Iterable[Mapping[str, float]]) -> None:
    """Writes one TSV per key of the rows under `folder/plots/metrics/`, beside `folder/metrics.json`.

    Without timestamps, so equal histories give equal bytes. `dvcyaml=None` keeps DVCLive from writing into dvc.yaml.

    Args:
        folder: emptied of an earlier run's curves.
        history: rows as `fit` returns them; each has "step", and other keys where there is a value.
    """
    with Live(str(folder), dvcyaml=None, save_dvc_exp=False) as live:
        for row in history:
            live.step = int(row["step"])
            for key, value in row.items():
                if key != "step":
                    live.log_metric(key, value)
            live.make_summary()
