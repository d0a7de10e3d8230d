"""Says what the synthetic images are worth, by the features of the CNN that was trained on real ones.

    python -m stages.audit_synthetic
    data/{real,synthetic,test} models/cnn/real [inception_path] -> metrics/audit_synthetic.json plots/audit_synthetic

Every figure of the synthetic train images stands beside its floor: what the real test images get against the same
real train images. The CNN has seen those, so that even new real images are not perfect. Nothing is chosen by the
floor. Where the user has the weights of FID's Inception, that distance stands beside the one in the CNN's features.
Under 10 CPU seconds for 8,000 images of 32 x 32 pixels; only the drawn images' features stay in memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from stages import config
from stages.artifacts import (
    DATA,
    METRICS,
    MODELS,
    PLOTS,
    BadInput,
    digest,
    fresh_dir,
    run_stage,
    write_bytes,
    write_json,
)
from stages.dataset.augment import normalize
from stages.dataset.tensors import Split, load_split
from stages.diffusion.grid import sample_grid
from stages.evaluation import scores
from stages.evaluation.figures import confusion_rows, write_csv
from stages.evaluation.frechet import frechet_distance
from stages.evaluation.inference import infer, infer_batches
from stages.evaluation.prdc import nearest
from stages.evaluation.set_quality import (
    Counts,
    Drawn,
    Embedded,
    compare,
    draw_equally,
    per_class_rows,
    recognizability,
)
from stages.networks import cnn, inception
from stages.sections import AuditSynthetic
from stages.training.runtime import Runtime, open_runtime

TRAIN, COMPARED = "real", ("synthetic", "real_test")
PLACES = {"real": ("real", "train"), "synthetic": ("synthetic", "train"), "real_test": ("test", "test")}
PAIRS_SHOWN = 16
INCEPTION_BATCH = 50
"""Images per pass, at 299 pixels each whatever they were; no figure depends on it."""


def main(argv: list[str]) -> dict[str, Any]:
    """Audits the synthetic train images."""
    if argv:
        raise BadInput(f"audit_synthetic: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    section = profile.audit_synthetic
    splits = load_splits()
    class_names = splits[TRAIN].class_names
    runtime = open_runtime(seed=0)  # what is drawn has a seed of its own
    labels = {name: split.labels for name, split in splits.items()}
    chosen = draw_equally(labels, len(class_names), section.images_per_class, section.subsample_seed)
    whole, parts, near = look(splits, chosen, section, runtime)
    facts: dict[str, Any] = {
        name: {"recognizability": recognizability(whole[name])}
        | compare(parts[TRAIN], parts[name], near[name][0], section.num_neighbors)
        for name in COMPARED
    }
    facts |= {"images_per_set": len(chosen[TRAIN]), "num_features": parts[TRAIN].features.shape[1]}
    if (weights := Path(study.inception_path)) != config.NO_INCEPTION:
        for name, distance in inception_distances(splits, chosen, weights, runtime).items():
            facts[name]["fid"] = distance
        facts["inception_sha256"] = digest(weights)
    with fresh_dir(PLOTS / "audit_synthetic") as folder:
        write_tables(folder, whole, parts, class_names)
        pairs = nearest_pairs(splits["synthetic"], chosen["synthetic"], splits[TRAIN], *near["synthetic"])
        write_bytes(folder / "nearest.png", pairs)
    target = METRICS / "audit_synthetic.json"
    write_json(target, facts)
    shares = [f"{facts[name]['recognizability']:.1%} of {name}" for name in COMPARED]
    return {"made": f"{target}, recognized {' and '.join(shares)}", "device": str(runtime.device)}


def load_splits() -> dict[str, Split]:
    """The three sets of images, held to one another."""
    splits = {name: load_split(DATA / folder, split) for name, (folder, split) in PLACES.items()}
    real = splits[TRAIN]
    for name, split in splits.items():
        folder = DATA / PLACES[name][0]
        if (split.class_names, split.images.shape[1:]) != (real.class_names, real.images.shape[1:]) and len(split):
            raise BadInput(f"{folder}: its classes or image size differ from those of data/real; run `dvc repro` again")
        for label, count in enumerate(split.labels.bincount(minlength=len(split.class_names)).tolist()):
            if not count:
                raise BadInput(f"{folder}: holds no image of class {split.class_names[label]}, so nothing to compare")
    return splits


def look(
    splits: dict[str, Split], chosen: dict[str, torch.Tensor], section: AuditSynthetic, runtime: Runtime
) -> tuple[dict[str, Counts], dict[str, Embedded], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Shows every image to the real arm's CNN, once.

    Returns:
        How often it takes which class of the compared sets for which; the features of the drawn images of each set; and
        for the drawn images of the compared sets `prdc.nearest` among all train images.
    """
    embed, classify = open_cnn(splits[TRAIN], section, runtime)
    whole, drawn = {}, {name: Drawn(rows) for name, rows in chosen.items()}
    for name in COMPARED:
        split, batches = splits[name], drawn[name].passing(embed(splits[name]))
        predicted = torch.cat([classify(batch) for batch in batches]).cpu().numpy()
        whole[name] = scores.confusion(split.labels.numpy(), predicted, len(split.class_names))
    queries = torch.cat([drawn[name].features() for name in COMPARED])
    apart, twins = nearest(queries, drawn[TRAIN].passing(embed(splits[TRAIN])))
    sizes = [len(chosen[name]) for name in COMPARED]
    near = dict(zip(COMPARED, zip(torch.split(apart, sizes), torch.split(twins, sizes), strict=True), strict=True))
    parts = {
        name: Embedded(kept.features(), splits[name].labels[chosen[name]].to(runtime.device))
        for name, kept in drawn.items()
    }
    return whole, parts, near


def open_cnn(
    real: Split, section: AuditSynthetic, runtime: Runtime
) -> tuple[Callable[[Split], Iterator[torch.Tensor]], Callable[[torch.Tensor], torch.Tensor]]:
    """The real arm's CNN in two parts: a split's images to batches of features, and features to predicted classes."""
    network = cnn.load(MODELS / "cnn" / "real", "model.safetensors", real.class_names, real.images.shape[-1])
    network = network.to(runtime.device).eval()

    def features(batch: torch.Tensor) -> torch.Tensor:
        with runtime.autocast(section.precision):
            return network.features(normalize(batch.to(runtime.device)))

    def embed(split: Split) -> Iterator[torch.Tensor]:
        return infer_batches(torch.nn.Identity(), split.images, section.batch_size, features)

    @torch.inference_mode()
    def classify(embedded: torch.Tensor) -> torch.Tensor:
        return network.classify(embedded).argmax(1)

    return embed, classify


def inception_distances(
    splits: dict[str, Split], chosen: dict[str, torch.Tensor], weights: Path, runtime: Runtime
) -> dict[str, float]:
    """FID of the drawn images of each set to the drawn real train images. It falls with their number: see the floor."""
    network = inception.load(weights).to(runtime.device)

    def features(name: str) -> torch.Tensor:
        images = splits[name].images[chosen[name].cpu()]
        return torch.from_numpy(infer(network, images, INCEPTION_BATCH, lambda batch: batch.to(runtime.device)))

    train = features(TRAIN)
    return {name: frechet_distance(train, features(name)) for name in COMPARED}


def write_tables(
    folder: Path, whole: dict[str, Counts], parts: dict[str, Embedded], class_names: tuple[str, ...]
) -> None:
    """Per class every figure that one class has; and what the CNN takes the synthetic images for."""
    write_csv(folder / "per_class.csv", per_class_rows(whole, parts, class_names))
    write_csv(folder / "confusion.csv", confusion_rows(whole["synthetic"].tolist(), class_names))


def nearest_pairs(
    synthetic: Split, rows: torch.Tensor, train: Split, apart: torch.Tensor, twins: torch.Tensor
) -> bytes:
    """A picture of the synthetic images (of those at `rows`) nearest to a real train image, each above that one."""
    closest = apart.argsort(stable=True)[:PAIRS_SHOWN].cpu()
    shown = synthetic.images[rows[closest]], train.images[twins.cpu()[closest]]
    return sample_grid(list(zip(("synthetic", "nearest real"), shown, strict=True)))


if __name__ == "__main__":
    run_stage(main)
