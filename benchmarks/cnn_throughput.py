"""CPU seconds per image of CNN training: the whole step, the network alone, and PIL transforms in a DataLoader.

    python -m benchmarks.cnn_throughput

Each pair below trains the same network in the same run, in turns; figures are medians over rounds, of CPU seconds,
since wall time is the neighbours' too.

- whole: `fit` from uint8 images in memory: batch order, augmentation of the batch, network, optimizer, loss curve,
  checkpoint. Once with the profile's augmentation, once with apai3010's.
- alone: forward, backward and optimizer on one batch that is ready.
- pil: apai3010's transforms on PIL images in a DataLoader (decoded beforehand, which spares it the files), with the
  same network, precision and optimizer as `whole`; and the same in float32 and torch's own layout, as apai3010 ran.

Targets: alone / whole >= 0.85 at the profile's augmentation; pil / whole >= 3 at the same transforms.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from stages import config
from stages.dataset.augment import augment
from stages.networks import batchnorm, cnn
from stages.sections import Augmentation, Cnn, Optimization, TrainCnn
from stages.training.batches import EpochOrder, LabelledBatches
from stages.training.loop import Plan, fit
from stages.training.objectives import cross_entropy
from stages.training.optimizer import adamw, parameter_groups
from stages.training.runtime import Runtime, open_runtime

ROUNDS, STEPS, NUM_IMAGES, NUM_CLASSES, SIDE = 7, 12, 2048, 10, 32
# RandomResizedCrop(32), flip, ColorJitter(.4, .4, .4, .1) with probability .8, gray .2, blur of 0.1 to 2 pixels .5.
APAI3010 = Augmentation(
    crop_scale_min=0.08,
    translate=0,
    rotate_degrees=0,
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
    blur_sigma_max=2,
)


def blur(image: Image.Image) -> Image.Image:
    """PIL's Gaussian blur of a random radius."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class PilImages(Dataset):
    """Decoded images through the transforms of the apai3010 notebooks."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels = labels
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIDE),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.RandomApply([blur], p=0.5),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.transform(self.images[index]), int(self.labels[index])


class Trainer:
    """A network and its optimizer; one step on a batch that is ready."""

    def __init__(self, settings: Cnn, optimization: Optimization, runtime: Runtime, precision: str) -> None:
        self.network = cnn.build(settings, NUM_CLASSES, SIDE)
        if precision == "float32":
            self.network = self.network.to(memory_format=torch.contiguous_format)
        self.optimizer = adamw(parameter_groups(self.network, optimization.weight_decay), optimization.beta2)
        batchnorm.track(self.network, self.optimizer)
        self.objective, self.runtime, self.precision = cross_entropy(0.1), runtime, precision

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """Forward, backward, optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.runtime.autocast(self.precision):
            loss = self.objective(self.network, batch)["loss"]
        loss.backward()
        self.optimizer.step()


def whole(trainer: Trainer, augmentation: Augmentation, images, labels, plan: Plan) -> Callable[[], None]:
    """The project's loop, from uint8 images in memory."""
    order = EpochOrder(len(labels), plan.batch_size, 0)
    batches = LabelledBatches(images, labels, order, lambda i, step, rows: augment(i, augmentation, 0, step, rows))

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            parts = (trainer.network, trainer.objective, batches, trainer.optimizer)
            fit(*parts, plan, trainer.runtime, Path(folder), None)

    return run


def pil(trainer: Trainer, images, labels, batch_size: int) -> Callable[[], None]:
    """A plain loop over a DataLoader of PIL images."""
    dataset = PilImages(images, labels)

    def forever() -> Iterator:
        while True:
            yield from DataLoader(dataset, batch_size, shuffle=True, drop_last=True)

    loader = forever()

    def run() -> None:
        trainer.network.train()
        for _ in range(STEPS):
            inputs, targets = next(loader)
            trainer.step({"images": inputs, "labels": targets})

    return run


def contenders(settings: Cnn, section: TrainCnn, runtime: Runtime, images, labels) -> dict[str, Callable[[], None]]:
    """What is measured: each runs STEPS steps."""
    optimization = section.optimization.model_copy(update={"num_steps": STEPS, "warmup_steps": 0})
    plan, precision = Plan.of(optimization, ()), optimization.precision
    ready = {"images": images[: plan.batch_size].float() / 127.5 - 1, "labels": labels[: plan.batch_size]}
    bare, trainer, plain = (Trainer(settings, optimization, runtime, p) for p in (precision, precision, "float32"))

    def alone() -> None:
        for _ in range(STEPS):
            bare.step(ready)

    return {
        "alone": alone,
        "whole, profile": whole(trainer, section.augmentation, images, labels, plan),
        "whole, apai3010": whole(trainer, APAI3010, images, labels, plan),
        "pil, same precision": pil(trainer, images, labels, plan.batch_size),
        "pil, float32": pil(plain, images, labels, plan.batch_size),
    }


def compare(settings: Cnn, section: TrainCnn, runtime: Runtime, images, labels) -> None:
    """Measures one network and prints its figures."""
    runs = contenders(settings, section, runtime, images, labels)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, run in runs.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    rows = STEPS * section.optimization.batch_size
    medians = {name: statistics.median(values[1:]) / rows for name, values in seconds.items()}
    print(f"{settings.name}, width {settings.width}, batch {section.optimization.batch_size}")
    for name, value in medians.items():
        print(f"  {name:20} {value * 1e3:.3f} CPU-ms per image")
    ratios = (
        ("alone", "whole, profile"),
        ("pil, same precision", "whole, apai3010"),
        ("pil, float32", "whole, apai3010"),
        ("pil, float32", "whole, profile"),
    )
    for name, other in ratios:
        print(f"  ({name}) / ({other}) = {medians[name] / medians[other]:.2f}")


def main() -> None:
    """Compares for the profile's network and for apai3010's."""
    section = config.load_profile("digits").train_cnn
    runtime = open_runtime(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (NUM_IMAGES, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, NUM_CLASSES, (NUM_IMAGES,), generator=generator)
    for settings in (section.network, Cnn(name="apai3010", width=32, norm_group=section.network.norm_group)):
        compare(settings, section, runtime, images, labels)


if __name__ == "__main__":
    main()
