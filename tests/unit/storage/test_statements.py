"""Groups of commits are cut into statements of few sizes."""

from hypothesis import given
from hypothesis import strategies as st

from storage.sqlite.statements import LARGEST_CHUNK, chunks


@given(st.integers(0, 600))
def test_chunks_cover_all_rows_in_order_with_powers_of_two(count: int) -> None:
    rows = [(n, -n) for n in range(count)]
    cut = list(chunks(str, rows))
    assert [p for _, parameters, _ in cut for p in parameters] == [value for row in rows for value in row]
    for text, parameters, size in cut:
        assert text == str(size)
        assert len(parameters) == 2 * size
        assert size <= LARGEST_CHUNK
        assert size & (size - 1) == 0
    assert len(cut) <= count // LARGEST_CHUNK + LARGEST_CHUNK.bit_length()
