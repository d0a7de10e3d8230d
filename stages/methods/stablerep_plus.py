"""StableRep+ (arXiv 2306.00984, section 3.3; `--add_language` of the release): StableRep with the captions' text.

Views: StableRep's, and their n captions. Loss: w1 * StableRep's + w2 * (L_i2t + L_t2i) / 2, where each image finds its
caption among all of the batch, and each caption its m images, uniformly. Settings: `stablerep_plus`, `language`, and
StableRep's `images_per_caption`, `positive_key`, `temperature`, `projection`.
"""

import torch

from stages.dataset.multiview import keys_of
from stages.methods.language import captioned, image_text_model
from stages.methods.method import Method, Task
from stages.methods.views import view_batches
from stages.networks.heads import contrastive_head
from stages.training.language import StableRepPlusObjective, bound_scale


def stablerep_plus(task: Task) -> Method:
    """StableRep+ on images that have captions."""
    section, m = task.section, task.section.images_per_caption
    n, data, settings, recipe = task.num_things(m), captioned(task, m), section.language, section.stablerep_plus
    keys = keys_of(task.split, section.positive_key, m)

    def extras(step: int, positions: range, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"keys": keys(rows)[positions.start : positions.stop], **data.texts_of(positions, rows)}

    head = contrastive_head(section.backbone.hidden_size, section.projection, task.norm(n))
    model, text = image_text_model(task, data.tokenizer, head)
    runtime = task.runtime
    return Method(
        labels_seen="classes" if section.positive_key == "class" else "captions",
        recipe=recipe,
        batches=view_batches(task, data.rows_of, recipe.augmentation, extras),
        network=model,
        objective=StableRepPlusObjective(
            settings.image_weight, settings.text_weight, section.temperature, runtime.gather, runtime.rank
        ),
        compares_images=True,
        share_multiple=m,  # and so a process takes a whole number of captions
        attach=lambda optimizer: bound_scale(model.log_scale, optimizer),
        text=text,
    )
