"""SupCon (Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020): images of one class are positives.

Views: two crops of each image. Loss: L_out (equation 2), which is StableRep's with classes for captions. Settings:
StableRep's but for `positive_key`.
"""

from stages.dataset.multiview import crop_views
from stages.methods.contrastive import contrastive
from stages.methods.method import Method, Task
from stages.methods.views import TWO_CROPS


def supcon(task: Task) -> Method:
    """SupCon on images that have labels."""
    rows_of = crop_views(len(task.split), task.num_things(TWO_CROPS), TWO_CROPS, task.seed)
    return contrastive(task, rows_of, TWO_CROPS, "class", task.shared_recipe, "classes")
