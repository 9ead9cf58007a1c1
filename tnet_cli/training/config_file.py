"""The configuration of a training run: a TOML file, what the command line puts over it, and what came of both.

Tables: ``[model]`` (``tnet_cli.training.architecture``), ``[training]`` (``TrainingSettings``), ``[data]`` and
``[card]``. A key that no table knows is refused with the nearest one that is known. The effective configuration, with
every number in it, is written into the run's folder and repeats the run.
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tnet_cli.errors import UsageError
from tnet_cli.learning.settings import NotIdentity, TrainingSettings
from tnet_cli.model.config import TNetConfig
from tnet_cli.modelfile.card import Line, Text
from tnet_cli.training.architecture import MODEL_KEYS, describe_first, model_config


class DataSettings(BaseModel):
    """How the manifest is used.

    Attributes:
        classes: All classes in the order of the logits; the labels, sorted, when None.
        validation_share: Share of the slides to validate on, where the manifest does not say which.
        folds: Train this many times, each on all but one part of the patients; None to train once.
        split_seed: Of the split; the training's own seed when None.
        skip_bad: Leave slides out that cannot be read, with a line for each, instead of stopping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    classes: tuple[str, ...] | None = Field(default=None, min_length=2)
    validation_share: float = Field(default=0.2, ge=0, lt=1)
    folds: int | None = Field(default=None, ge=2)
    split_seed: int | None = Field(default=None, ge=0, lt=2**32)
    skip_bad: Annotated[bool, NotIdentity] = False


class CardSettings(BaseModel):
    """What the model's card says that only its maker can know.

    Attributes:
        name: That of the run's folder when None.
        summary: One sentence; made from the classes when None.
        intended_use: One sentence, printed with results and on overlays.
        licence: Terms of the weights.
        data_licence: Terms of the slides.
        limits: Sentences to add to those that hold for every model trained here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: Text | None = None
    intended_use: Text = "Research; trained by the user, not for diagnosis."
    licence: Line = "not stated"
    data_licence: Line = "not stated"
    limits: tuple[Text, ...] = ()


SECTIONS: dict[str, type[BaseModel]] = {
    "model": TNetConfig,
    "training": TrainingSettings,
    "data": DataSettings,
    "card": CardSettings,
}
TABLES = {name: frozenset(kind.model_fields) for name, kind in SECTIONS.items()} | {"model": MODEL_KEYS}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a run is asked to be, but for the manifest and the machine.

    Attributes:
        network: The model, with the classes of the manifest.
    """

    network: TNetConfig
    training: TrainingSettings
    data: DataSettings
    card: CardSettings

    @property
    def split_seed(self) -> int:
        """The seed of the split."""
        return self.training.seed if self.data.split_seed is None else self.data.split_seed

    def as_toml(self) -> str:
        """Return the tables as TOML that, read again with the same manifest, gives this configuration."""
        tables = {name: part.model_dump(mode="json", exclude_none=True) for name, part in self.sections().items()}
        tables["data"]["classes"] = tables["model"].pop("class_names")
        return tomli_w.dumps(tables)

    def sections(self) -> dict[str, BaseModel]:
        """Return the parts by the names of their tables."""
        return {"model": self.network, "training": self.training, "data": self.data, "card": self.card}

    @property
    def digest(self) -> str:
        """SHA-256 of the TOML, hexadecimal."""
        return hashlib.sha256(self.as_toml().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ConfigTables:
    """What was asked for, before the classes are known.

    Attributes:
        model: The keys of [model] that were given; they are checked with the classes.
    """

    model: dict[str, Any]
    training: TrainingSettings
    data: DataSettings
    card: CardSettings

    @classmethod
    def read(cls, path: Path | None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Self:
        """Read the file, put ``--set`` over it, and the named options over both.

        Args:
            path: TOML; the defaults alone when None.
            overrides: ``table.key=value`` each, the value as TOML or as plain words with commas between.
            options: Values by ``table.key``; None leaves what is there.

        Raises:
            UsageError: the file cannot be read, or a key or value in it is not known or not possible.
        """
        given = _read_toml(path) if path is not None else []
        given += [_override(text) for text in overrides]
        given += [(*dotted.split("."), value) for dotted, value in (options or {}).items() if value is not None]
        tables: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
        for table, key, value in given:
            tables[table][key] = value
        _move_pretrained(tables)
        where = str(path) if path else "options"
        return cls(tables["model"], *(_checked(tables, name, where) for name in ("training", "data", "card")))

    def complete(self, class_names: tuple[str, ...], *, on_gpu: bool) -> TrainConfig:
        """Build the model's configuration and fit the training's to it.

        Args:
            on_gpu: Whether the default backbone may be one that needs a GPU to be trained.

        Raises:
            UsageError: the model's numbers do not go together.
        """
        training = self.training
        network = model_config(
            self.model,
            class_names,
            weights=training.backbone_weights,
            finest=training.finest_weights,
            on_gpu=on_gpu,
        )
        if "hard_locations" not in training.model_fields_set:
            wanted = network.processing_levels - 1
            locations = training.hard_locations
            # The last numbers are those of the finest processing levels, where the classes differ.
            fitted = (locations[:1] * (wanted - len(locations)) + locations)[-wanted:] if wanted else ()
            training = training.model_copy(update={"hard_locations": fitted})
        training.check_fit(network)
        data = self.data.model_copy(update={"classes": class_names})
        return TrainConfig(network=network, training=training, data=data, card=self.card)


def _read_toml(path: Path) -> list[tuple[str, str, Any]]:
    """Return table, key and value of all that a file says."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise UsageError(f"{path}: not a TOML file: {exc}") from exc
    for table, values in tables.items():
        if table not in TABLES:
            raise UsageError(f"{path}: unknown table or key {table!r}; {_nearest(table)}")
        if not isinstance(values, dict):
            raise UsageError(f"{path}: {table} is a table; write [{table}] and its keys below")
        for key in values:
            if key not in TABLES[table]:
                raise UsageError(f"{path}: unknown key {key!r} in [{table}]; {_nearest(key, table)}")
    return [(table, key, value) for table, values in tables.items() for key, value in values.items()]


def _nearest(key: str, table: str | None = None) -> str:
    """Say which known key was probably meant: one of the same name first, then one of this table, then any."""
    elsewhere = [f"[{name}] {key}" for name, keys in TABLES.items() if key in keys]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    if table is not None and (close := difflib.get_close_matches(key, sorted(TABLES[table]), n=1)):
        return f"did you mean {close[0]!r}?"
    homes = {known: name for name, keys in reversed(TABLES.items()) for known in sorted(keys)}
    if close := difflib.get_close_matches(key, [*TABLES, *homes], n=1):
        return f"did you mean [{close[0]}]?" if close[0] in TABLES else f"did you mean [{homes[close[0]]}] {close[0]}?"
    known = sorted(TABLES[table]) if table is not None else [f"[{name}]" for name in TABLES]
    return f"expected one of {', '.join(known)}"


def _override(text: str) -> tuple[str, str, Any]:
    dotted, equals, value = text.partition("=")
    table, _, key = dotted.strip().partition(".")
    if not equals:
        raise UsageError(f"--set {text}: expected TABLE.KEY=VALUE, such as training.warmup_steps=100")
    if not key:
        raise UsageError(f"--set {text}: expected TABLE.KEY=VALUE; {_nearest(table)}")
    if table not in TABLES:
        raise UsageError(f"--set {text}: unknown table {table!r}; {_nearest(key)}")
    if key not in TABLES[table]:
        raise UsageError(f"--set {text}: unknown key {key!r} in [{table}]; {_nearest(key, table)}")
    read = _value(value.strip())
    return table, key, [read] if _takes_several(table, key) and not isinstance(read, list) else read


def _takes_several(table: str, key: str) -> bool:
    """Tell whether a key holds a list, so that one value alone stands for a list of one."""
    field = SECTIONS[table].model_fields.get(key)
    annotation = None if field is None else field.annotation
    return any(get_origin(kind) is tuple for kind in (annotation, *get_args(annotation)))


def _value(text: str) -> Any:
    """Read a value as TOML; failing that as words, several when there are commas between."""
    for candidate in (text, f"[{text}]") if "," in text else (text,):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    if "," in text:
        return [_value(part.strip()) for part in text.split(",") if part.strip()]
    return text


def _move_pretrained(tables: dict[str, dict[str, Any]]) -> None:
    """Make settings of the training of ``pretrained`` and ``finest``, which users look for beside the backbone."""
    if "finest" in tables["model"]:
        tables["training"]["finest_weights"] = tables["model"].pop("finest")
    if "pretrained" not in tables["model"]:
        return
    wanted = tables["model"].pop("pretrained")
    if "backbone_weights" in tables["training"]:
        raise UsageError("[model] pretrained and [training] backbone_weights are the same; give one")
    if isinstance(wanted, str) and re.fullmatch(r"DEFAULT|[A-Z0-9]+(_[A-Z0-9]+)+", wanted):
        wanted = f"torchvision:{wanted}"
    tables["training"]["backbone_weights"] = wanted


def _checked(tables: dict[str, dict[str, Any]], table: str, where: str) -> Any:
    try:
        return SECTIONS[table].model_validate(tables[table])
    except ValidationError as exc:
        raise UsageError(f"{where}: {describe_first(exc, table)}") from exc
