"""The configuration: TOML, what the command line puts over it, and what is written into the run."""

from pathlib import Path

import pytest

from tnet_cli.errors import UsageError
from tnet_cli.learning.settings import TrainingSettings
from tnet_cli.model.config import TNetConfig
from tnet_cli.training.config_file import ConfigTables

CLASSES = ("benign", "lesion")


def read(tmp_path: Path, text: str, *overrides: str, **options) -> ConfigTables:
    path = tmp_path / "train.toml"
    path.write_text(text)
    return ConfigTables.read(path, overrides, {name.replace("__", "."): value for name, value in options.items()})


def test_without_a_file_everything_is_the_default():
    config = ConfigTables.read(None).complete(CLASSES, on_gpu=False)
    assert config.network == TNetConfig.slide(CLASSES)
    assert config.training == TrainingSettings()
    assert config.data.classes == CLASSES
    assert config.split_seed == 0


def test_options_go_over_overrides_and_these_over_the_file(tmp_path):
    text = "[training]\nseed = 1\nwarmup_steps = 10\nbatch_slides = 2\n[data]\nvalidation_share = 0.5\n"
    tables = read(tmp_path, text, "training.seed=2", "training.warmup_steps=20", training__seed=3, data__folds=None)
    config = tables.complete(CLASSES, on_gpu=False)
    assert (config.training.seed, config.training.warmup_steps, config.training.batch_slides) == (3, 20, 2)
    assert (config.data.validation_share, config.data.folds) == (0.5, None)
    assert config.split_seed == 3
    assert read(tmp_path, text, "data.split_seed=9").complete(CLASSES, on_gpu=False).split_seed == 9


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.mpp=8,2,0.5", (8.0, 2.0, 0.5)),
        ("model.mpp=[8, 2.0, 0.5]", (8.0, 2.0, 0.5)),
        ("model.locations=3", (3,)),
        ("model.weighting=false", False),
        ("model.backbone=resnet18", "resnet18"),
        ("model.backbone=timm:resnet10t.c3_in1k", "timm:resnet10t.c3_in1k"),
        ("model.base_px = 128", 128),
    ],
)
def test_values_of_overrides_need_no_quotes(override, value):
    key = override.partition("=")[0].strip().removeprefix("model.")
    network = ConfigTables.read(None, [override]).complete(CLASSES, on_gpu=False).network
    assert getattr(network, key) == value


def test_lists_of_words_need_no_quotes():
    assert ConfigTables.read(None, ["data.classes=grade 1,grade 2,3"]).data.classes == ("grade 1", "grade 2", "3")


def test_the_effective_configuration_repeats_the_run(tmp_path):
    text = '[model]\nmpp = [4, 1.0]\nlocations = [6]\n[card]\nname = "mine"\nlimits = ["Old slides only."]\n'
    first = read(tmp_path, text, "training.normal_class=benign", "data.folds=3").complete(CLASSES, on_gpu=True)
    path = tmp_path / "config.toml"
    path.write_text(first.as_toml())
    again = ConfigTables.read(path).complete(CLASSES, on_gpu=False)
    assert again == first
    assert again.digest == first.digest
    assert first.network.backbone == "efficientnet_b0"
    assert first.network.locations == (6,)
    assert first.training.normal_class == "benign"
    other = read(tmp_path, text).complete(CLASSES, on_gpu=True)
    assert other.digest != first.digest


@pytest.mark.parametrize(
    ("overrides", "mpp", "locations", "hard"),
    [
        (["model.processing_levels=2"], (2.0, 0.5), (12,), (12,)),
        (["model.mpp=16,4,1"], (16.0, 4.0, 1.0), (12, 12), (8, 12)),
        (["model.grid=2"], (4.0, 2.0, 1.0, 0.5), (12, 12, 12), (6, 8, 12)),
        (["model.locations=3,4"], (8.0, 2.0, 0.5), (3, 4), (8, 12)),
        (["model.processing_levels=5"], (128.0, 32.0, 8.0, 2.0, 0.5), (12,) * 4, (6, 6, 8, 12)),
        (["model.processing_levels=1"], (0.5,), (), ()),
    ],
)
def test_numbers_that_are_not_given_follow_those_that_are(overrides, mpp, locations, hard):
    config = ConfigTables.read(None, overrides).complete(CLASSES, on_gpu=False)
    assert (config.network.mpp, config.network.locations) == (mpp, locations)
    assert config.training.hard_locations == hard


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[training]\nwarmup_step = 3\n", r"unknown key 'warmup_step' in \[training\]; did you mean 'warmup_steps'\?"),
        ("[training]\nbackbone = 'x'\n", r"did you mean \[model\] backbone\?"),
        ("[model]\nwarmup_stepz = 3\n", r"did you mean \[training\] warmup_steps\?"),
        ("[model]\nclass_names = ['a', 'b']\n", "unknown key 'class_names'"),
        ("[trainning]\nseed = 1\n", r"unknown table or key 'trainning'; did you mean \[training\]\?"),
        ("seed = 1\n", r"unknown table or key 'seed'; did you mean \[training\] seed\?"),
        ("[data]\nqqqqqq = 1\n", "expected one of classes, folds, skip_bad, split_seed, validation_share"),
        ("model = 'slide'\n", r"model is a table; write \[model\]"),
        ("[training\n", "not a TOML file"),
        ("[training]\nwarmup_steps = 'many'\n", r"\[training\] warmup_steps = 'many': Input should be a valid integer"),
        ("[data]\nvalidation_share = 1.0\n", r"\[data\] validation_share = 1.0: Input should be less than 1"),
        ("[card]\nname = 'my model'\n", r"\[card\] name = 'my model'"),
    ],
)
def test_a_wrong_file_is_refused_with_a_hint(tmp_path, text, complaint):
    with pytest.raises(UsageError, match=complaint) as refused:
        read(tmp_path, text)
    assert str(tmp_path / "train.toml") in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("training.warmup_steps", "expected TABLE.KEY=VALUE, such as"),
        ("warmup_steps=3", r"did you mean \[training\] warmup_steps\?"),
        ("train.warmup_steps=3", r"unknown table 'train'; did you mean \[training\] warmup_steps\?"),
        ("training.warmupsteps=3", "did you mean 'warmup_steps'"),
        ("training.warmup_steps=0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_override_is_refused_with_a_hint(override, complaint):
    with pytest.raises(UsageError, match=complaint):
        ConfigTables.read(None, [override])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["model.mpp=8,2,1"], "each mpp must be 4 times the next, not 2 and 1"),
        (["model.preset=photo"], "expected slide"),
        (["model.image_px=448"], "makes models of slides"),
        (["model.base_px=3"], r"\[model\] base_px = 3: Input should be greater than or equal to 16"),
        (["training.hard_locations=2,3"], "has 2 numbers; a model of 4 processing levels needs 3"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(overrides, complaint):
    with pytest.raises(UsageError, match=complaint):
        ConfigTables.read(None, overrides).complete(CLASSES, on_gpu=False)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
        ConfigTables.read(tmp_path / "none.toml")


def test_pretrained_weights_stand_beside_the_backbone_and_bring_their_pixel_statistics():
    tables = ConfigTables.read(None, ["model.backbone=resnet18", "model.pretrained=IMAGENET1K_V1"])
    config = tables.complete(CLASSES, on_gpu=False)
    assert config.training.backbone_weights == "torchvision:IMAGENET1K_V1"
    assert config.network.pixel_mean == pytest.approx((0.485, 0.456, 0.406))
    kept = ConfigTables.read(None, ["model.pretrained=some/weights.safetensors"])
    assert kept.training.backbone_weights == "some/weights.safetensors"
    with pytest.raises(UsageError, match="are the same; give one"):
        ConfigTables.read(None, ["model.pretrained=DEFAULT", "training.backbone_weights=torchvision"])
