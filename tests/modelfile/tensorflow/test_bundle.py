"""Checkpoints: what is written is what is read, and every kind of damage is a sentence."""

import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tensor_bundle import SUFFIX, block, entry, field, table, varint, write_bundle
from tnet_cli.errors import ModelFileError, UsageError
from tnet_cli.modelfile.tensorflow.bundle import MOST_ENTRIES, find_prefix, masked_crc32c, open_bundle
from tnet_cli.modelfile.tensorflow.names import read_variables

VARIABLES = {
    "feature_extraction/stem/conv2d/kernel": np.arange(3 * 3 * 3 * 8, dtype=np.float32).reshape(3, 3, 3, 8),
    "location_prediction/height_scaling/kernel": np.array([[0.7]], np.float32),
    **{f"feature_extraction/part7_block{i}/se/conv2d_1/bias": np.full(5, i, np.float32) for i in range(1, 40)},
}
KERNEL = "feature_extraction.Sstem.Sconv2d.Skernel" + SUFFIX


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "ckpt-7", VARIABLES)


def index_of(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def data_of(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".data-00000-of-00001")


@pytest.mark.parametrize("shards", [1, 3])
def test_variables_come_back_without_the_optimisers(tmp_path, shards):
    prefix = write_bundle(tmp_path / "ckpt-7", VARIABLES, shards=shards)
    bundle = open_bundle(prefix)
    assert bundle.shards == shards
    assert len(bundle.entries) == 5 + 3 * len(VARIABLES)
    read = read_variables(bundle)
    assert read.keys() == VARIABLES.keys()
    for name, value in VARIABLES.items():
        np.testing.assert_array_equal(read[name], value)


def test_the_reference_checkpoint_is_read_whole(shared):
    bundle = open_bundle(shared / "reference" / "parity" / "ckpt_fmow" / "ckpt-123")
    assert len(bundle.entries) == 792
    assert len(read_variables(bundle)) == 327  # the 328th is the reward's baseline, a number


def test_the_name_of_the_models_scope_is_left_out(tmp_path):
    write_bundle(tmp_path / "ckpt", {f"TNet/{name}": value for name, value in VARIABLES.items()})
    assert read_variables(open_bundle(tmp_path / "ckpt")).keys() == VARIABLES.keys()


def test_a_checkpoint_is_found_by_prefix_file_or_folder(prefix):
    for given in (prefix, index_of(prefix), data_of(prefix), prefix.parent):
        assert find_prefix(given) == prefix


def test_a_folder_of_several_checkpoints_names_the_latest(prefix):
    write_bundle(prefix.with_name("ckpt-9"), VARIABLES)
    with pytest.raises(ModelFileError, match="found ckpt-7, ckpt-9; give its prefix"):
        find_prefix(prefix.parent)
    (prefix.parent / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/ckpt-9"\n')
    assert find_prefix(prefix.parent) == prefix.with_name("ckpt-9")


def test_what_is_not_there(tmp_path):
    with pytest.raises(ModelFileError, match=r"ckpt-1\.index does not exist"):
        find_prefix(tmp_path / "ckpt-1")
    with pytest.raises(ModelFileError, match="found none"):
        find_prefix(tmp_path)


def test_an_index_cut_anywhere_is_a_sentence(prefix):
    whole = index_of(prefix).read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        index_of(prefix).write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match="truncated"):
            open_bundle(prefix)


def test_an_index_with_a_changed_byte_is_refused_or_says_the_same(prefix, rng):
    whole = index_of(prefix).read_bytes()
    entries = open_bundle(prefix).entries
    refused = 0
    for at in rng.integers(0, len(whole), 60):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        index_of(prefix).write_bytes(changed)
        try:
            assert open_bundle(prefix).entries == entries
        except ModelFileError:
            refused += 1
    assert refused >= 50


CRAFTED = {
    "far_offset": entry(1, (5,), 0, 2**63 - 1, b"x" * 20),
    "negative_offset": entry(1, (5,), 0, 2**64 - 5, b"x" * 20),
    "no_such_shard": entry(1, (5,), 2**40, 0, b"x" * 20),
    "wide": field(1, 1) + field(2, field(2, field(1, 2**62))) + field(5, 2**64 - 4),
    "as_large_as_it_says": field(1, 1) + field(2, field(2, field(1, 2**30))) + field(5, 2**32),
    "empty_and_wide": field(1, 1) + field(2, field(2, b"") + field(2, field(1, 2**63))),
    "many_axes": field(1, 1) + field(2, field(2, field(1, 1)) * 5000) + field(5, 4),
    "a_length_beyond_its_end": b"\x12\xff\xff\xff\xff\x0f",
    "a_wire_type_of_groups": b"\x0b\x0c",
    "a_number_without_an_end": b"\x08" + b"\xff" * 12,
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_entry_is_a_sentence(prefix, name):
    pairs = [(b"", field(1, 1)), (f"a.Sb{SUFFIX}".encode(), CRAFTED[name])]
    index_of(prefix).write_bytes(table(pairs))
    with pytest.raises(ModelFileError, match=re.escape(str(prefix))):
        read_variables(open_bundle(prefix))


def test_keys_that_grow_and_blocks_that_are_named_again_are_bounded(prefix):
    long = [(b"", field(1, 1)), (b"k" * 5000 + SUFFIX.encode(), entry(1, (1,), 0, 0, b"xxxx"))]
    index_of(prefix).write_bytes(table(long))
    with pytest.raises(ModelFileError, match="damaged"):
        open_bundle(prefix)
    many = [(f"{number:06d}".encode(), b"") for number in range(MOST_ENTRIES // 100)]
    data = block(many)
    handle = varint(0) + varint(len(data) - 5)
    handles = block([(b"z%06d" % number, handle) for number in range(101)], restart_every=1)
    ends = varint(0) + varint(0) + varint(len(data)) + varint(len(handles) - 5)
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    index_of(prefix).write_bytes(data + handles + ends.ljust(40, b"\0") + magic)
    with pytest.raises(ModelFileError, match="damaged"):
        open_bundle(prefix)


def test_a_file_that_is_something_else(prefix):
    index_of(prefix).write_text("this is not an index, however long it may be, and however much it says")
    with pytest.raises(ModelFileError, match="is not the index of a TensorFlow checkpoint"):
        open_bundle(prefix)


def test_a_compressed_index_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="is compressed"):
        open_bundle(write_bundle(tmp_path / "ckpt", VARIABLES, compression=1))


def test_a_big_endian_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="big-endian"):
        open_bundle(write_bundle(tmp_path / "ckpt", VARIABLES, header=field(2, 1)))


def test_data_that_are_missing_cut_or_changed(prefix):
    bundle = open_bundle(prefix)
    whole = data_of(prefix).read_bytes()
    data_of(prefix).write_bytes(whole[: bundle.entries[KERNEL].offset + 10])
    with pytest.raises(ModelFileError, match=r"is truncated: feature_extraction\.Sstem"):
        bundle.read(KERNEL)
    changed = bytearray(whole)
    changed[bundle.entries[KERNEL].offset + 100] ^= 4
    data_of(prefix).write_bytes(changed)
    with pytest.raises(ModelFileError, match=r"the check sum of feature_extraction\.Sstem"):
        bundle.read(KERNEL)
    data_of(prefix).unlink()
    with pytest.raises(ModelFileError, match="a checkpoint needs its data beside its index"):
        bundle.read(KERNEL)


def test_the_check_sum_is_crc_32c_turned_and_shifted():
    # 0xE3069283, the published CRC-32C of these bytes, turned right by 15 bits is 0x2507C60D.
    assert masked_crc32c(b"123456789") == (0x2507C60D + 0xA282EAD8) & 0xFFFFFFFF
    # RFC 3720, appendix B.4: 0x8A9136AA, which turned is 0x6D551522.
    assert masked_crc32c(bytes(32)) == (0x6D551522 + 0xA282EAD8) & 0xFFFFFFFF


def test_without_the_extra_it_says_what_to_install(prefix, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(UsageError, match=r"needs the tensorflow extra; .* pip install 'tnet-cli\[tensorflow\]'$"):
        open_bundle(prefix)


def test_other_types_are_no_weights(prefix):
    bundle = open_bundle(prefix)
    with pytest.raises(ModelFileError, match="expected a float32 tensor in one piece"):
        bundle.read("save_counter" + SUFFIX)
