"""What ``tnet models`` says: the models at hand, the card of one, and whether a file is whole."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tnet_cli.errors import ModelFileError
from tnet_cli.modelfile.card import MODEL_FILE, ModelCard
from tnet_cli.modelfile.card_markdown import card_as_markdown
from tnet_cli.modelfile.modelfile import (
    DIGEST_KEY,
    bundled_models,
    find_model,
    load_model,
    read_card,
    read_header,
    sha256_of,
)

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model at hand, by the name that ``tnet classify -m`` takes: bundled, or in the user's cache of the hub."""

    name: str
    source: Literal["bundled", "cache"]
    path: Path
    size_bytes: int
    card: ModelCard

    def document(self) -> dict[str, Any]:
        """Return the model as a JSON object."""
        network = self.card.network
        return {
            "name": self.name,
            "source": self.source,
            "summary": self.card.summary,
            "intended_use": self.card.intended_use,
            "kind": "slides" if network.mpp else "images",
            "classes": list(network.class_names),
            "bytes": self.size_bytes,
            "path": str(self.path),
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """A model file that was found whole.

    Attributes:
        digest: SHA-256 of the file, hexadecimal.
        weights: How many trainable numbers.
        is_sealed: Whether its header carries the digest of its tensors, which then is theirs. Files of older versions
            carry none: a changed but possible weight goes unnoticed in them.
    """

    path: Path
    name: str
    digest: str
    tensors: int
    weights: int
    size_bytes: int
    is_sealed: bool


def list_models(
    on_note: Callable[[str], None] | None = None, *, bundled: Mapping[str, Path] | None = None
) -> list[ListedModel]:
    """List the models that came with tnet, then tnet's in the user's cache of the hub, each group by name.

    Args:
        on_note: Told of files that came with tnet and cannot be used.
        bundled: Taken for those that came with tnet.
    """
    models: list[ListedModel] = []
    for name, path in (bundled_models() if bundled is None else bundled).items():
        try:
            models.append(_listed(name, "bundled", path))
        except ModelFileError as error:
            if on_note is not None:
                on_note(str(error))
    for name, path in sorted(_cached_files()):
        # Models of others live in the same cache; only tnet's carry its card.
        try:
            models.append(_listed(name, "cache", path))
        except ModelFileError:
            continue
    return models


def describe_model(name: str) -> dict[str, Any]:
    """Return a model's whole card as a JSON document, with its file, the file's size and its digest.

    Raises:
        ModelFileError: there is no such model, or its file is damaged.
    """
    path = find_model(name)
    card = read_card(path)
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "card": card.model_dump(mode="json"),
    }


def model_as_text(name: str) -> str:
    """Return a model's card as readable Markdown; raises as ``describe_model`` does."""
    return card_as_markdown(read_card(find_model(name))).rstrip()


def verify_model(name: str) -> Verification:
    """Check a model file from header to last weight.

    Its header must carry a card, its tensors must be those of the architecture on the card in name and shape, every
    value must be finite, and where a digest of the tensors is recorded, in the header or by the hub, it must be right.

    Raises:
        ModelFileError: there is no such model, or its file is damaged; the message says how.
    """
    path = find_model(name)
    model = load_model(path)
    _check_blob_name(path, model.digest)
    state = model.network.state_dict()
    for tensor_name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelFileError(f"{path}: damaged: {tensor_name} holds values that are not finite")
    return Verification(
        path=path,
        name=model.card.name,
        digest=model.digest,
        tensors=len(state),
        weights=sum(parameter.numel() for parameter in model.network.parameters()),
        size_bytes=path.stat().st_size,
        is_sealed=DIGEST_KEY in read_header(path),
    )


def _listed(name: str, source: Literal["bundled", "cache"], path: Path) -> ListedModel:
    return ListedModel(name, source, path, path.stat().st_size, read_card(path))


def _cached_files() -> Iterator[tuple[str, Path]]:
    """Yield address and file of every safetensors file in the user's cache of the hub."""
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return  # without the library nothing was ever fetched
    try:
        cache = scan_cache_dir()
    except (CacheNotFound, ValueError, OSError):
        return
    for repository in cache.repos:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            for file in revision.files:
                if file.file_path.suffix == ".safetensors" and revision.refs:
                    inner = file.file_path.relative_to(revision.snapshot_path).as_posix()
                    address = f"hf://{repository.repo_id}"
                    yield (address if inner == MODEL_FILE else f"{address}/{inner}"), file.file_path


def _check_blob_name(path: Path, digest: str) -> None:
    """Compare a file of the hub's cache with the digest it is stored under."""
    stored = path.resolve()
    if stored.parent.name == "blobs" and SHA256.fullmatch(stored.name) and stored.name != digest:
        raise ModelFileError(f"{path}: damaged: its SHA-256 is {digest}, the hub's is {stored.name}; fetch it again")
