"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020).

Views: two crops of each image, which are each other's positives. Loss: NT-Xent (equation 1), which is StableRep's with
images for captions. Settings: `simclr`, `temperature`, `projection`.
"""

from stages.dataset.multiview import crop_views
from stages.methods.contrastive import contrastive
from stages.methods.method import Method, Task
from stages.methods.views import TWO_CROPS


def simclr(task: Task) -> Method:
    """SimCLR on any images."""
    rows_of = crop_views(len(task.split), task.num_things(TWO_CROPS), TWO_CROPS, task.seed)
    return contrastive(task, rows_of, TWO_CROPS, "slot", task.section.simclr, "none")
