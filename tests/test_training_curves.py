import csv
import json

from stages.training.curves import write_curves

HISTORY = [
    {"step": 1, "loss": 2.5, "lr": 0.1},
    {"step": 2, "loss": 1.25, "lr": 0.05, "val_top1": 0.5},
    {"step": 4, "loss": 0.1 + 0.2, "lr": 0.0, "val_top1": 0.75},
]


def read(path):
    with path.open() as stream:
        return [(int(row["step"]), float(row[path.stem])) for row in csv.DictReader(stream, delimiter="\t")]


def test_one_table_per_key_with_its_own_steps(tmp_path):
    write_curves(tmp_path / "c", HISTORY)
    tables = {path.stem: read(path) for path in (tmp_path / "c" / "plots" / "metrics").iterdir()}
    assert tables == {
        "loss": [(1, 2.5), (2, 1.25), (4, 0.1 + 0.2)],
        "lr": [(1, 0.1), (2, 0.05), (4, 0.0)],
        "val_top1": [(2, 0.5), (4, 0.75)],
    }
    assert json.loads((tmp_path / "c" / "metrics.json").read_text())["step"] == 4


def test_equal_histories_give_equal_bytes_and_nothing_stays_from_before(tmp_path):
    write_curves(tmp_path / "a", HISTORY)
    write_curves(tmp_path / "b", [{"step": 9, "other": 1.0}])
    write_curves(tmp_path / "b", HISTORY)
    files = [
        {p.relative_to(tmp_path / n).as_posix(): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in "ab"
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 4
