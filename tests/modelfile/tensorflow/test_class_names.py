"""Class names: as listed, numbered or not, and never guessed wrong in number."""

import pytest

from tnet_cli.errors import ManifestError
from tnet_cli.modelfile.tensorflow.import_model import FMOW, read_class_names


def test_the_order_of_the_published_satellite_model():
    assert len(set(FMOW)) == len(FMOW) == 62
    moved = FMOW.index("impoverished_settlement")
    assert FMOW[moved - 1 : moved + 2] == ("recreational_facility", "impoverished_settlement", "road_bridge")
    assert sorted(FMOW) == sorted([*FMOW[:moved], *FMOW[moved + 1 :], "impoverished_settlement"])
    others = [name for name in FMOW if name != "impoverished_settlement"]
    assert others == sorted(others)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("crow\nwren\n", ("crow", "wren")),
        ("\ufeffcrow\r\n\r\n  wren  \r\n", ("crow", "wren")),
        ("1 001.Crow\n2 002.House_wren\n", ("001.Crow", "002.House_wren")),
        ("0 crow\n1 house wren\n", ("crow", "house wren")),
        ("3 men\n4 men\n", ("3 men", "4 men")),
    ],
)
def test_one_name_a_line(tmp_path, text, names):
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_class_names(path, 2) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"crow\n", "lists 1 class names, but the model has 2 classes"),
        (b"crow\ncrow\n", "lists the class name 'crow' more than once"),
        (b"", "lists 0 class names"),
        (b"\xff\xfe\x00", "cannot be read as class names"),
    ],
)
def test_names_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_class_names(path, 2)
    with pytest.raises(ManifestError, match="No such file"):
        read_class_names(tmp_path / "gone.txt", 2)
