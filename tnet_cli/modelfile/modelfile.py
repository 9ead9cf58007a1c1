"""Model files: one safetensors file whose header carries the model's card. No pickle is ever loaded."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tnet_cli.errors import ModelFileError, UsageError, install_hint
from tnet_cli.files import write_bytes_whole, write_text_whole
from tnet_cli.model.domain import FeatureDomain
from tnet_cli.model.tnet import TNet
from tnet_cli.modelfile.card import CARD_KEY, MODEL_FILE, ModelCard
from tnet_cli.modelfile.card_markdown import card_as_markdown, is_card_page
from tnet_cli.places import Place

DIGEST_KEY = "tnet_tensors_sha256"
DOMAIN_PREFIX = "domain."
"""Of the tensors that are not the network's: those of ``model.domain``."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network ready to look, with its card and the digest that names these exact weights.

    Attributes:
        network: In evaluation mode, on the CPU.
        digest: SHA-256 of the file, hexadecimal.
        domain: Where the features of each processing level lie that the model was calibrated on; empty where the card
            has no limits for them.
    """

    network: TNet
    card: ModelCard
    digest: str
    path: Path
    domain: tuple[FeatureDomain, ...] = ()


def bundled_models() -> dict[str, Path]:
    """Return the models that came with the package, by name."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "weights", package.parent / "weights"):
        files = sorted(folder.glob("*.safetensors"))
        if files:
            return {file.stem: file for file in files}
    return {}


def find_model(name: str) -> Path:
    """Find a model by bundled name, by file, or on the Hugging Face hub (``hf://owner/repo[/file]``).

    Raises:
        ModelFileError: there is no such model, its file cannot be read, or the hub cannot be reached.
    """
    place = Place(name)
    if place.is_url:
        return fetch_from_hub(place)
    bundled = bundled_models()
    if name in bundled:
        return bundled[name]
    path = Path(name)
    try:
        if path.is_file():
            path.open("rb").close()
            return path
        found = "is a directory" if path.is_dir() else "is neither a file nor a bundled model"
    except OSError as exc:
        found = f"cannot be read: {exc.strerror or exc}"
    known = ", ".join(bundled) or "none"
    raise ModelFileError(f"{place}: {found}; give a .safetensors file, hf://owner/repo, or one of: {known}")


def fetch_from_hub(address: Place, file: str | None = None) -> Path:
    """Fetch a file of a repository of the Hugging Face hub, unless it is in the cache.

    Args:
        address: ``hf://owner/repo``, or ``hf://owner/repo/file`` where no file is named beside it.
        file: Its name in the repository; a model file's when None.

    Raises:
        ModelFileError: the address is none, or the file cannot be had.
    """
    parts = str(address).removeprefix("hf://").split("/")
    # Whatever else an address may have, a user or a query, the hub has no use for.
    if str(address) != address.opened_whole() or len(parts) < 2 or not all(parts) or parts[0].endswith(":"):
        raise ModelFileError(
            f"{address}: expected hf://owner/repo or hf://owner/repo/file.safetensors; download any other model first"
        )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as exc:
        raise ModelFileError(f"{address}: needs the hub extra; install it with: {install_hint('hub')}") from exc
    file = file or "/".join(parts[2:]) or MODEL_FILE
    try:
        return Path(hf_hub_download("/".join(parts[:2]), file))
    except GatedRepoError as exc:
        raise ModelFileError(
            f"{address}: is gated: ask for access on https://huggingface.co/{'/'.join(parts[:2])}, then set HF_TOKEN "
            "to a token of yours"
        ) from exc
    except LocalEntryNotFoundError as exc:
        raise ModelFileError(
            f"{address}: the hub cannot be reached and {file} is not in the local cache; "
            "download it once while online, or give the file itself"
        ) from exc
    except (HfHubHTTPError, OSError, ValueError) as exc:
        raise ModelFileError(f"{address}: {file} cannot be fetched: {str(exc).splitlines()[0]}") from exc


def read_header(path: Path) -> dict[str, str]:
    """Read the texts in a safetensors file's header; raises ModelFileError where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as exc:
        raise ModelFileError(f"{path}: not a readable safetensors file: {exc}") from exc


def read_card(path: Path) -> ModelCard:
    """Read the card in a model file's header without loading its tensors.

    Raises:
        ModelFileError: the file is missing, damaged, or carries no valid card.
    """
    return _card_in(read_header(path), path)


def _card_in(header: dict[str, str], path: Path) -> ModelCard:
    if CARD_KEY not in header:
        raise ModelFileError(f"{path}: a safetensors file without a tnet card; expected one written by tnet")
    try:
        return ModelCard.model_validate_json(header[CARD_KEY])
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(f"{path}: its card does not fit this version of tnet: {where}: {first['msg']}") from exc


def load_model(path: Path) -> LoadedModel:
    """Load a model file.

    Raises:
        ModelFileError: the file is missing, damaged, or its tensors are not those of the architecture on its card.
    """
    header = read_header(path)
    card, recorded = _card_in(header, path), header.get(DIGEST_KEY)
    digest, of_tensors = _digests(path)
    if recorded is not None and recorded != of_tensors:
        raise ModelFileError(f"{path}: damaged: its tensors have changed since they were written; get the file again")
    try:
        network = TNet(card.network)
    except ValueError as exc:
        raise ModelFileError(f"{path}: {exc}") from exc
    tensors = _tensors(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(DOMAIN_PREFIX)}
    try:
        network.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        )
    except ValueError as exc:  # of a program that is not trusted
        raise ModelFileError(f"{path}: {exc}") from exc
    except RuntimeError as exc:
        problem = str(exc).splitlines()[1].strip() if "\n" in str(exc) else str(exc)
        raise ModelFileError(
            f"{path}: its tensors are not those of a {card.network.backbone} model: {problem}"
        ) from exc
    network.eval()
    domain = _domain_of(tensors, network, card, path)
    return LoadedModel(network=network, card=card, digest=digest, path=path, domain=domain)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(path: Path) -> tuple[str, str]:
    """Return the SHA-256 of a model file, and that of what comes after its header, from one reading."""
    with path.open("rb") as file:
        size = file.read(8)
        whole, tensors = hashlib.sha256(size + file.read(int.from_bytes(size, "little"))), hashlib.sha256()
        while block := file.read(1 << 20):
            whole.update(block)
            tensors.update(block)
    return whole.hexdigest(), tensors.hexdigest()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as exc:
        raise ModelFileError(f"{path}: damaged: {exc}") from exc


def _domain_of(
    tensors: dict[str, torch.Tensor], network: TNet, card: ModelCard, path: Path
) -> tuple[FeatureDomain, ...]:
    count = len(card.domain.limits) if card.domain else 0
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    try:
        for name, tensor in tensors.items():
            if name.startswith(DOMAIN_PREFIX):
                _, number, part = name.split(".")
                states[int(number)][part] = tensor
        lengths = [network.feature.feature_length_at(number) for number in range(count)]
        return tuple(FeatureDomain.from_state(*pair) for pair in zip(states, lengths, strict=True))
    except (ValueError, IndexError) as exc:
        raise ModelFileError(f"{path}: damaged: what it knows of its domain does not fit: {exc}") from exc


def save_model(network: TNet, card: ModelCard, path: Path, *, halve: bool = True) -> None:
    """Write a model file and, beside it, its card as readable Markdown.

    Weights are stored as float16, which halves the file; statistics and everything that is not a weight stay as they
    are, and so do frozen encoders, whose answers others rely on, where float16 would change them. The header carries
    the digest of the tensors, so that damage is noticed.

    Args:
        network: ``card.network`` must be its configuration.
        path: Target, ``NAME.safetensors``.
        halve: Whether weights are stored as float16; otherwise as float32.

    Raises:
        ValueError: the card describes another network.
    """
    if card.network != network.config:
        raise ValueError("the card's network is not the configuration of the network to save")
    tensors = {}
    frozen = tuple(f"feature.encoders.{n}." for n, encoder in enumerate(network.config.encoders) if encoder.frozen)
    for name, tensor in network.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        # Running variances can exceed the range of float16, so only weights are halved.
        if halve and stored.dtype == torch.float32 and stored.ndim > 1:
            halved = stored.half()
            if not name.startswith(frozen) or torch.equal(halved.float(), stored):
                stored = halved
        tensors[name] = stored
    _write(tensors, card, path)


def copy_model(model: Path, card: ModelCard, target: Path, *, domain: Sequence[FeatureDomain] = ()) -> None:
    """Copy a model file, weights to the bit, with another card; write the card as Markdown beside it.

    Args:
        card: Of the same network.
        target: ``NAME.safetensors``; may be ``model`` itself.
        domain: What ``card.domain`` has limits of; as in the file when empty.

    Raises:
        ModelFileError: the file is damaged.
        OSError: a file cannot be written.
    """
    tensors = _tensors(model)
    for number, each in enumerate(domain):
        tensors |= {f"{DOMAIN_PREFIX}{number}.{part}": tensor.contiguous() for part, tensor in each.state().items()}
    _write(tensors, card, target)


def _write(tensors: dict[str, torch.Tensor], card: ModelCard, path: Path) -> None:
    blob = _with_metadata(save(tensors), {CARD_KEY: json.dumps(card.model_dump(mode="json"))})
    write_bytes_whole(path, blob)
    write_text_whole(path.with_suffix(".md"), card_as_markdown(card))


def refuse_taken_target(path: Path, option: str, *, overwrite: bool) -> None:
    """Refuse a place for a model file, and the card beside it, before anything is computed.

    Args:
        option: By which it was given.
        overwrite: Whether a model of tnet that is there may be replaced; nothing else is.

    Raises:
        UsageError: it does not end in ``.safetensors``, or is taken.
    """
    if path.suffix != ".safetensors":
        raise UsageError(f"{option} {path}: expected a file ending in .safetensors")
    for file, is_ours, what in (
        (path, _is_model_file, "a model of tnet"),
        (path.with_suffix(".md"), _is_card_page, "the card of one"),
    ):
        if not os.path.lexists(file):
            continue
        if file.is_symlink() or not file.is_file() or not is_ours(file):
            raise UsageError(f"{option} {path}: {file} exists and is not {what}; give another file")
        if not overwrite:
            raise UsageError(f"{option} {path}: {file} exists; give another file, or replace it with --overwrite")


def _is_model_file(path: Path) -> bool:
    try:
        return CARD_KEY in read_header(path)
    except ModelFileError:
        return False


def _is_card_page(path: Path) -> bool:
    return is_card_page(path.read_text(encoding="utf-8", errors="replace"))


def _with_metadata(blob: bytes, metadata: dict[str, str]) -> bytes:
    """Put metadata and the digest of the tensors into a safetensors file's bytes.

    The library would write them in another order each time, and the same weights must give the same file.
    """
    start = 8 + int.from_bytes(blob[:8], "little")
    digest = hashlib.sha256(memoryview(blob)[start:]).hexdigest()
    header = {"__metadata__": {**metadata, DIGEST_KEY: digest}, **json.loads(blob[8:start])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of eight
    return len(text).to_bytes(8, "little") + text + blob[start:]
