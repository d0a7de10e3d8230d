"""Keeping libraries from drawing progress bars of their own, and from words that a stage says better."""

import logging

import diffusers
import transformers


def hide_progress_bars() -> None:
    """Loading and saving a pipeline takes seconds; a stage shows one bar, for what takes minutes."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # A warning per batch with an unsafe image; these are counted, and listed in the manifest.
    logging.getLogger("diffusers.pipelines.stable_diffusion.safety_checker").setLevel(logging.ERROR)
