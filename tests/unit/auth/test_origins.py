"""Origins: exact, but for a whole leftmost label."""

import pytest

from server.auth.origins import OriginPolicy

POLICY = OriginPolicy(
    ["https://shop.example", "http://localhost:3000", "https://*.app.example", "https://*.api.example:8443"]
)

ALLOWED = [
    None,
    "https://shop.example",
    "https://SHOP.example",
    "https://shop.example:443",
    "http://localhost:3000",
    "https://a.app.example",
    "https://a-b.app.example",
    "https://a.api.example:8443",
]

REFUSED = [
    "null",
    "",
    "*",
    "https://",
    "shop.example",
    "http://shop.example",
    "https://shop.example:8443",
    "https://shop.example.evil.example",
    "https://evilshop.example",
    "https://www.shop.example",
    "https://shop.example/",
    "https://shop.example.",
    "https://shop.example@evil.example",
    "https://user@shop.example",
    "https://shop.example#",
    "https://shop.example?x",
    "https://shop.example evil",
    "https://shop.example\n",
    "https://shop.example\x00",
    " https://shop.example",
    "https://app.example",
    "https://a.b.app.example",
    "https://.app.example",
    "https://*.app.example",
    "https://a.app.example:8443",
    "https://a.app.example.evil",
    "https://aapp.example",
    "https://a.api.example",
    "http://localhost",
    "http://localhost:30000",
    "http://localhost:03000x",
    "http://127.0.0.1:3000",
    "file://",
    "chrome-extension://shop.example",
    "ftp://shop.example",
    "https://\u017fhop.example",
    "https://shop.example:99999",
]


@pytest.mark.parametrize("origin", ALLOWED)
def test_a_listed_origin_is_allowed(origin: str | None) -> None:
    assert POLICY.allows(origin)


@pytest.mark.parametrize("origin", REFUSED)
def test_anything_else_is_refused(origin: str) -> None:
    assert not POLICY.allows(origin)


def test_an_empty_list_allows_only_what_is_no_browser() -> None:
    assert OriginPolicy([]).allows(None)
    assert not OriginPolicy([]).allows("https://shop.example")


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*", "https://a.*.example", "https://**.example", "https://*a.example", "null", "//x"],
)
def test_a_pattern_with_a_wildcard_elsewhere_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        OriginPolicy([origin])
