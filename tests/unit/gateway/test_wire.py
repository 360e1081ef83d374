"""What our wire relies on in uvicorn: an upgrade that changes it must fail here, not in production."""

import inspect

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server.gateway.http import BoundedHttp
from server.gateway.wire import WebSocketWire

OURS = {"write", "unsent_bytes", "close", "reject", "forget_handshake"}


@pytest.mark.parametrize(
    ("ours", "theirs"), [(WebSocketWire, WebSocketsSansIOProtocol), (BoundedHttp, HttpToolsProtocol)]
)
def test_each_hook_overrides_one_that_exists_with_the_same_parameters(ours: type, theirs: type) -> None:
    hooks = {
        name: method
        for name, method in vars(ours).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in OURS
    }
    assert hooks
    for name, method in hooks.items():
        base = getattr(theirs, name)
        assert list(inspect.signature(method).parameters) == list(inspect.signature(base).parameters), name


STATE = (
    "queue conn close_sent disconnected handshake_initiated handshake_complete close_timer read_paused "
    "frames curr_msg_data_type"
)


@pytest.mark.parametrize("attribute", STATE.split())
def test_the_state_that_we_read_is_still_there(attribute: str) -> None:
    assert f"self.{attribute}" in inspect.getsource(WebSocketsSansIOProtocol.__init__)
