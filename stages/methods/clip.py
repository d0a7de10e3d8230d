"""CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021).

Views: one crop of one image of each caption, and the caption. Loss: each image finds its caption among all of the
batch and each caption its image. Settings: `clip`, `language`.
"""

import torch

from stages.methods.language import captioned, image_text_model
from stages.methods.method import Method, Task
from stages.methods.views import view_batches
from stages.training.language import ClipObjective, bound_scale


def clip(task: Task) -> Method:
    """CLIP on images that have captions."""
    recipe, data = task.section.clip, captioned(task, 1)

    def extras(step: int, positions: range, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return data.texts_of(positions, rows)

    model, text = image_text_model(task, data.tokenizer, head=None)
    return Method(
        labels_seen="captions",
        recipe=recipe,
        batches=view_batches(task, data.rows_of, recipe.augmentation, extras),
        network=model,
        objective=ClipObjective(task.runtime.gather),
        compares_images=True,
        attach=lambda optimizer: bound_scale(model.log_scale, optimizer),
        text=text,
    )
