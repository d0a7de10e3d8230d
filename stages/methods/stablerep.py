"""StableRep (Tian et al., NeurIPS 2023, arXiv 2306.00984): images made from one caption are positives.

Views: n captions with m images each, one crop of each image. Loss: the multi-positive contrastive one, equations 1
to 3. Settings: `images_per_caption` (m), `positive_key`, `temperature`, `projection`, `optimization`, `augmentation`.
"""

from stages.dataset.multiview import caption_views
from stages.methods.contrastive import contrastive
from stages.methods.method import LabelsSeen, Method, Task


def stablerep(task: Task) -> Method:
    """StableRep on images that have captions."""
    section, m = task.section, task.section.images_per_caption
    rows_of = caption_views(task.split.caption_ids, task.num_things(m), m, task.seed)
    labels_seen: LabelsSeen = "classes" if section.positive_key == "class" else "captions"
    return contrastive(task, rows_of, m, section.positive_key, task.shared_recipe, labels_seen)
