"""Keeping libraries from drawing progress bars of their own."""

import diffusers
import transformers


def hide_progress_bars() -> None:
    """Loading and saving a pipeline takes seconds; a stage shows one bar, for what takes minutes."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
