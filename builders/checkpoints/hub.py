"""A model on the Hugging Face hub, downloaded into the hub's own cache with a progress bar."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is imported there
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from river_trt.errors import CheckpointError

ALLOW = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
IGNORE = ["*/*.safetensors", "*/*.json"]  # copies in other formats lie in subdirectories


def is_hub_id(model: str) -> bool:
    """Whether a string could be a hub id, `organisation/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model) is not None


def download(repo_id: str, allow_download: bool = True) -> Path:
    """Directory of the model's files; CheckpointError when it cannot be had."""
    try:
        return Path(
            snapshot_download(
                repo_id,
                allow_patterns=ALLOW,
                ignore_patterns=IGNORE,
                local_files_only=not allow_download,
            )
        )
    except GatedRepoError as error:  # a RepositoryNotFoundError, so it comes first
        reason = "asks you to accept its licence on huggingface.co and to log in (hf auth login)"
        raise CheckpointError(f"the hub model {repo_id} {reason}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        reason = "is neither a local directory nor a model on the Hugging Face hub"
        raise CheckpointError(f"{repo_id} {reason}") from error
    except LocalEntryNotFoundError as error:
        reason = "is no local directory, is not in the hub's cache, and the hub cannot be reached"
        if not allow_download:
            reason = "is no local directory and is not in the hub's cache"
        raise CheckpointError(f"{repo_id} {reason}") from error
    except (HTTPError, OSError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{repo_id} is no local directory, and its download failed: {cause}"
        ) from error
