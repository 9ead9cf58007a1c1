"""tnet from Python: five names, that load nothing until they are called and do what the commands do."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tnet_cli
from tnet_cli.errors import PartialFailureError, SlideError, UsageError

NAMES = ["classify", "evaluate", "load_model", "open_slide", "train"]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_the_package_exports_five_names_and_imports_neither_torch_nor_a_reader():
    assert sorted(tnet_cli.__all__) == NAMES
    assert set(NAMES) <= set(dir(tnet_cli))
    heavy = "{'torch', 'numpy', 'openslide', 'tifffile', 'typer', 'rich'}"
    assert (
        python(f"import sys, tnet_cli; tnet_cli.classify, tnet_cli.train; print({heavy} & set(sys.modules))") == "set()"
    )
    with pytest.raises(AttributeError, match="has no attribute 'classifier'"):
        tnet_cli.classifier  # noqa: B018 (asking for it is the test)


def test_the_functions_stay_functions_when_every_room_has_been_imported_first():
    rooms = [room.name for room in pkgutil.iter_modules(tnet_cli.__path__) if room.name != "__main__"]
    assert {"classification", "evaluation", "training", "slide", "model"} <= set(rooms)
    code = (
        f"import importlib; [importlib.import_module('tnet_cli.' + room) for room in {rooms}]\n"
        f"import tnet_cli; print(all(callable(getattr(tnet_cli, name)) for name in {NAMES}))"
    )
    assert python(code) == "True"


def test_a_script_classifies_as_the_command_does(made_slide, untrained_model, tmp_path):
    report = tnet_cli.classify(made_slide, model=untrained_model, budget=6, overlay=False, out=tmp_path / "out")
    (row,) = report.rows
    assert (row.status, row.values["locations"]) == ("ok", 6)
    assert report.record["options"]["budget"] == 6
    assert report.page == tmp_path / "out" / "report.html"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"]
    again = tnet_cli.classify([made_slide], model=untrained_model, budget=6, overlay=False, out=tmp_path / "out")
    assert again.skipped == 1


def test_failures_are_rows_and_an_error_only_when_asked_for(made_slide, untrained_model, tmp_path):
    (tmp_path / "empty.svs").touch()
    report = tnet_cli.classify([made_slide, tmp_path / "empty.svs"], model=untrained_model, out=tmp_path / "out")
    assert [row.status for row in report.rows] == ["ok", "failed"]
    with pytest.raises(PartialFailureError):
        report.raise_for_failures()


def test_slides_and_models_open_by_path_or_name(made_slide, tmp_path):
    with tnet_cli.open_slide(made_slide, mpp=0.25) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert (slide.size.width, slide.reader) == (6000, "tifffile")
    assert tnet_cli.load_model("synthetic-demo").card.name == "synthetic-demo"
    with pytest.raises(SlideError, match="no such file"):
        tnet_cli.open_slide(tmp_path / "gone.svs")


@pytest.mark.slow
def test_a_script_trains_and_evaluates(labelled_slides: Path, tmp_path):
    small = ["model.mpp=[16, 4]", "model.base_px=64", "model.locations=[3]", "training.patches_per_slide=2"]
    small += ["training.warmup_steps=3", "training.rounds=1", "training.batch_patches=4", "training.hard_epochs=0"]
    trained = tnet_cli.train(
        labelled_slides, tmp_path / "run", overrides=small, normal_class="benign", validation_share=0.5, device="cpu"
    )
    (model,) = trained.models
    judged = tnet_cli.evaluate(labelled_slides, model, out=tmp_path / "evaluation", bootstrap=0)
    assert judged.judged == 4
    assert judged.accuracy.value in {0, 0.25, 0.5, 0.75, 1}
    assert (tmp_path / "evaluation" / "metrics.json").is_file()


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"workers": 0}, {"budget": 0}, {"stop_at": 5}, {"stop_at": -0.1}, {"slide_timeout_s": -1}],
)
def test_a_number_out_of_range_is_refused_before_anything_is_opened(options, tmp_path):
    with pytest.raises(UsageError, match="expected"):
        tnet_cli.classify(tmp_path / "gone.svs", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}, {"bootstrap": -1}, {"arms": "every"}])
def test_an_evaluation_out_of_range_is_refused_too(options, tmp_path):
    with pytest.raises(UsageError, match="expected"):
        tnet_cli.evaluate(tmp_path / "gone.csv", "synthetic-demo", out=tmp_path / "out", **options)
