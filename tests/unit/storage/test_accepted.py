"""The filter of accepted keys: what it denies was never put in, and it seldom errs before it is full."""

from storage.mongo.accepted import BYTES, from_bytes, may_have, to_bytes, with_key


def filled(number: int) -> int:
    accepted = 0
    for n in range(number):
        accepted = with_key(accepted, f"key-{n}")
    return accepted


def test_what_was_put_in_is_never_denied() -> None:
    accepted = filled(5_000)
    assert all(may_have(accepted, f"key-{n}") for n in range(5_000))


def test_what_was_not_put_in_is_nearly_always_denied() -> None:
    for number, most in ((100, 0.001), (500, 0.05), (1_000, 0.2)):
        accepted = filled(number)
        wrong = sum(may_have(accepted, f"other-{n}") for n in range(10_000))
        assert wrong <= most * 10_000


def test_an_empty_one_denies_everything_and_an_unknown_one_nothing() -> None:
    assert not may_have(0, "key")
    assert may_have(None, "key")


def test_it_is_stored_in_as_many_bytes_however_full_it_is() -> None:
    for number in (0, 1, 10_000):
        stored = to_bytes(filled(number))
        assert len(stored) == BYTES
        assert from_bytes(stored) == filled(number)


def test_any_text_may_be_a_key() -> None:
    for key in ("", "ключ", "k" * 10_000, "\x00"):
        assert may_have(with_key(0, key), key)
