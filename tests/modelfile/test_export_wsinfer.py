"""A finest view as a patch model for other programs: as the zoo's programs would run it."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from tnet_cli.cli.app import main
from tnet_cli.errors import UsageError
from tnet_cli.modelfile.export_wsinfer import export_wsinfer
from tnet_cli.modelfile.zoo import load_patch_model
from tnet_cli.modelfile.zoo_config import read_zoo_config


@pytest.mark.parametrize("name", ["synthetic-demo", "colon-adenocarcinoma-composed"])
def test_a_program_of_the_zoo_says_what_the_finest_view_says(tmp_path, name):
    export_wsinfer(name, tmp_path / "zoo")
    config = read_zoo_config(tmp_path / "zoo" / "config.json")
    own = load_patch_model(name)
    assert (config.class_names, config.patch_size_pixels) == (own.classes, own.patch_px)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.load(str(tmp_path / "zoo" / "torchscript_model.pt"))
    # The steps as the zoo's programs take them, from the document alone.
    document = json.loads((tmp_path / "zoo" / "config.json").read_text())
    said = {step["name"]: step.get("arguments", {}) for step in document["transform"]}
    steps = transforms.Compose(
        [transforms.Resize(said["Resize"]["size"]), transforms.ToTensor(), transforms.Normalize(**said["Normalize"])]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, own.patch_px, own.patch_px, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = program(torch.stack([steps(Image.fromarray(each)) for each in pixels]))
        ours = own.network(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0]
    assert torch.allclose(logits.softmax(dim=1), ours, atol=1e-5)


def test_it_comes_back_as_a_teacher_for_who_trusts_it_and_is_not_replaced_unasked(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["models", "export", "synthetic-demo", "--format", "wsinfer", "-o", str(tmp_path / "zoo")])
    assert ended.value.code == 0
    assert "patches of 256 px at 0.5" in capsys.readouterr().out
    with pytest.raises(UsageError, match="exists"):
        export_wsinfer("synthetic-demo", tmp_path / "zoo")
    again, own = load_patch_model(str(tmp_path / "zoo"), trust_torchscript=True), load_patch_model("synthetic-demo")
    patches = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(again.network(patches)[0], own.network(patches)[0], atol=1e-5)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["models", "export", "synthetic-demo", "--format", "keras", "-o", str(tmp_path / "zoo")])
    assert ended.value.code == 2
