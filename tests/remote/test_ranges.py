"""What is asked of a server for the bytes that are wanted, and what of them is kept."""

import pytest

from tnet_cli.places import Place
from tnet_cli.remote.ranges import BLOCK_BYTES, MOST_RUN_BYTES, BlockStream, ByteRange, RemoteFile, joined

pytest.importorskip("aiohttp", reason="needs the extra 'remote'")


def test_ranges_are_joined_where_they_touch():
    near, far = ByteRange(100, 50), ByteRange(5000, 10)
    assert joined([far, ByteRange(150, 25), near, near]) == [ByteRange(100, 75), far]
    assert joined([ByteRange(0, 10), ByteRange(18, 10)]) == [ByteRange(0, 28)]
    long = ByteRange(0, MOST_RUN_BYTES)
    assert joined([long, ByteRange(MOST_RUN_BYTES, 5)]) == [long, ByteRange(MOST_RUN_BYTES, 5)]
    assert joined([long, ByteRange(10, 5)]) == [long]


def test_a_stream_equals_the_file_whatever_is_read(server, tmp_path, rng):
    content = rng.bytes(5 * BLOCK_BYTES + 1234)
    (tmp_path / "a.bin").write_bytes(content)
    file = RemoteFile(Place(f"{server.url}/a.bin"))
    stream = BlockStream(file)
    for _ in range(200):
        offset, count = int(rng.integers(0, len(content) + 50)), int(rng.integers(0, 2 * BLOCK_BYTES))
        stream.seek(offset)
        assert stream.read(count) == content[offset : offset + count]
        assert stream.tell() == offset + len(content[offset : offset + count])
    assert server.sent <= len(content), "blocks are kept"
    stream.seek(-4, 2)
    assert stream.read() == content[-4:]
    assert file.read(10, len(content) - 3) == content[-3:]
    assert file.read(10, len(content) + 3) == b""
