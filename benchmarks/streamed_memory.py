"""Peak memory of every stage at two sizes of one data set, when all images stay on disk.

    python -m benchmarks.streamed_memory 10000 60000

Draws a folder of that many different JPEG files of 32 pixels (as tensors 3 kB each: 29 and 176 MiB), and runs every
stage of the tiny study on it, each in a process of its own, with `MEMORY_BYTES` at 0, so that every image is read when
it is needed. Steps are few and networks small: what is left to grow is what a stage holds for each image. Prints the
peak resident memory of each stage at both sizes, and by how many bytes an image makes it grow.

Scratch files (about 10 kB an image) go to the folder for temporary ones; TMPDIR names another.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml  # noqa: TID251 - writes settings, reads none of the project's
from PIL import Image

from tests.closure import ROOT
from tests.tiny import CLASSES, commands, make_repository

SIDE = 32
PROGRAM = """
import importlib, re, resource, sys
stage = importlib.import_module(sys.argv[1])
if "stages.dataset.tensors" in sys.modules:
    sys.modules["stages.dataset.tensors"].MEMORY_BYTES = 0
stage.main(sys.argv[2:])
own = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]  # ru_maxrss has the parent's in it
print(max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""
LEFT_OUT = {"check_settings", "fetch_backbone", "summarize", "probe_encoder random"}
"""Stages that read no image, and an encoder that repeats what another does."""
WITH_ARMS = {"train_cnn", "evaluate", "finetune_vit", "evaluate_vit"}
"""Stages of which one arm is enough."""


def draw(folder: Path, count: int) -> None:
    """`count` different files: a few large spots of colour, and fine noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        spots = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        pixels = np.asarray(spots) // 2 + rng.integers(0, 30, (SIDE, SIDE, 1), dtype=np.uint8)
        place = folder / CLASSES[i % len(CLASSES)] / f"{i:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place, quality=75)


def prepare(folder: Path, count: int) -> None:
    """A tiny repository whose data set has about `count` images, an eighth of them for val and test each."""
    make_repository(folder)
    shutil.rmtree(folder / "pictures")
    draw(folder / "pictures", count)
    path, study = folder / "profiles" / "tiny.yaml", folder / "params.yaml"
    profile, held_out = yaml.safe_load(path.read_text()), count // len(CLASSES) // 8
    profile["fetch_data"].update(image_size=SIDE, val_per_class=held_out, test_per_class=held_out)
    profile["fetch_data"]["codec"] = {"format": "jpeg", "quality": 75}
    profile["build_generator"]["autoencoder"]["block_channels"] = [8, 8, 8, 8]
    per_caption = {"images_per_caption": count // 6, "val_images_per_caption": held_out}
    profile["generate_synthetic"].update(image_size=SIDE, batch_size=50, num_inference_steps=1, **per_caption)
    path.write_text(yaml.safe_dump(profile, sort_keys=False))
    settings = yaml.safe_load(study.read_text())
    study.write_text(yaml.safe_dump(settings | {"vit_inits": ["random"]}, sort_keys=False))


def peak_mib(folder: Path, command: list[str]) -> float:
    """Runs a stage; returns the most memory that it, or one of its children, had resident."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-c", PROGRAM, *command]
    done = subprocess.run(program, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return int(done.stdout.split()[-1]) / 1024


def measure(count: int) -> dict[str, float]:
    """Peak memory by stage, in MiB."""
    with tempfile.TemporaryDirectory() as place:
        folder, peaks = Path(place) / "study", {}
        prepare(folder, count)
        for command, _ in commands(folder):
            started = time.monotonic()
            name = " ".join(command).removeprefix("stages.")
            if name in LEFT_OUT or (name.split()[0] in WITH_ARMS and "synthetic" in command):
                continue
            peaks[name] = peak_mib(folder, command)
            print(f"{count:6} {name:44} {peaks[name]:6.0f} MiB, {time.monotonic() - started:5.1f} s", flush=True)
    return peaks


def main() -> None:
    """Measures both sizes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs=2, help="numbers of images")
    sizes = parser.parse_args().sizes
    small, large = (measure(count) for count in sizes)
    print(f"\n{'stage':44} {sizes[0]:>7} {sizes[1]:>7}  bytes per image")
    for name, peak in small.items():
        growth = (large[name] - peak) * 2**20 / (sizes[1] - sizes[0])
        print(f"{name:44} {peak:7.0f} {large[name]:7.0f}  {growth:15.0f}")


if __name__ == "__main__":
    main()
