"""Which commands a conversation may have accepted: a Bloom filter that its document carries.

Whether a command's key was used before, however long ago, is for the log to say. Nearly always it was not,
and the filter says so without asking: only what may be there is looked for. A filter that is full is wrong
as often as not; then the log is asked each time, as it is where nothing is known (None).
"""

from hashlib import blake2b
from typing import Final

BYTES: Final = 512
"""With 1,000 keys one answer in seven is a vain look into the log, with 500 one in thirty."""
_BITS: Final = BYTES * 8
_HASHES: Final = 3


def _mask(key: str) -> int:
    number = int.from_bytes(blake2b(key.encode(), digest_size=2 * _HASHES).digest())
    mask = 0
    for _ in range(_HASHES):
        number, bit = divmod(number, _BITS)
        mask |= 1 << bit
    return mask


def with_key(accepted: int, key: str) -> int:
    """Return the filter with one more key."""
    return accepted | _mask(key)


def may_have(accepted: int | None, key: str) -> bool:
    """Tell whether a key may be among them; False is certain."""
    if accepted is None:
        return True
    mask = _mask(key)
    return accepted & mask == mask


def to_bytes(accepted: int) -> bytes:
    """Return a filter as it is stored."""
    return accepted.to_bytes(BYTES, "little")


def from_bytes(stored: bytes) -> int:
    """Return the filter of ``to_bytes``."""
    return int.from_bytes(stored, "little")
