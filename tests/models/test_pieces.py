"""Pieces of memory read as one file."""

import io

from hypothesis import given
from hypothesis import strategies as st

from immich_ml_cn.models.pieces import joined


@given(
    st.lists(st.binary(max_size=9)),
    st.lists(st.tuples(st.sampled_from(["read", "seek", "move", "end"]), st.integers(0, 20))),
)
def test_it_is_read_like_the_bytes_themselves(pieces: list[bytes], steps: list[tuple[str, int]]) -> None:
    ours, theirs = joined([memoryview(piece) for piece in pieces]), io.BytesIO(b"".join(pieces))
    for step, size in steps:
        for file in (ours, theirs):
            if step == "seek":
                file.seek(size)
            elif step == "move":
                file.seek(size, io.SEEK_CUR)
            elif step == "end":
                file.seek(0, io.SEEK_END)
        assert ours.tell() == theirs.tell()
        if step == "read":
            assert ours.read(size) == theirs.read(size)
    assert ours.read() == theirs.read()
