"""The profile's prompts, written out: which texts images are made from, and under which numbers.

    python -m stages.write_captions
    data/real (classes), profiles/prompts (files that the profile's prompts name) -> data/captions.tsv

A stage of its own, so that a new file in profiles/prompts reruns nothing that does not read it. digits: 300 captions.
"""

from typing import Any

from stages import config
from stages.artifacts import CAPTIONS, DATA, BadInput, read_manifest, run_stage
from stages.diffusion.captions import write_captions
from stages.diffusion.prompts import make_captions


def main(argv: list[str]) -> dict[str, Any]:
    """Writes the captions."""
    if argv:
        raise BadInput(f"write_captions: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    profile = config.load_profile(study.profile)
    class_names = read_manifest(DATA / "real")["class_names"]
    captions = make_captions(profile.prompts, class_names, config.PROMPTS)
    write_captions(CAPTIONS, captions, class_names)
    held_out = sum(caption.split == "val" for caption in captions)
    return {"made": f"{CAPTIONS}, {len(captions)} captions, {held_out} of them held out"}


if __name__ == "__main__":
    run_stage(main)
