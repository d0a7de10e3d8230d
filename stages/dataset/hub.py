"""Published weights from the Hugging Face hub: with `download`, the only file that reaches the network.

Tried against a loopback server; the hub itself was never asked from where this was written.
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import errors, snapshot_download

from stages.artifacts import BadInput
from stages.sections import HubModel


def fetch(model: HubModel, patterns: Sequence[str], key: str) -> Path:
    """The folder of a pinned model in the hub cache (`HF_HOME`), which is asked before the network.

    Args:
        model: repository and commit.
        patterns: globs of the files that are wanted; no other is fetched.
        key: the setting that names the model, for complaints.

    Raises:
        BadInput: the hub does not have it, does not give it away, or can't be reached.
    """
    try:
        return Path(snapshot_download(model.repo_id, revision=model.revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError:
        raise BadInput(f"{key}: {model.repo_id} is gated; accept its terms, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise BadInput(f"{key}: the hub has no {model.repo_id}; check repo_id") from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{key}: {model.repo_id} has no revision {model.revision}; give a commit hash of it") from None
    except Exception as error:  # the HTTP client's own are no part of huggingface_hub's interface
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the network's
        reason = str(error).splitlines()[0][:200]
        raise BadInput(
            f"{key}: can't fetch {model.repo_id} ({reason}); connect, or fill the hub cache elsewhere"
        ) from None
