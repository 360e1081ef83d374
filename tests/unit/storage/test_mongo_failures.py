"""What is said of an error of MongoDB's driver: what is wrong and what to do, in no words of the driver's."""

import pytest
from pymongo.errors import (
    AutoReconnect,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from storage.base import CommitUnknown, StoreUnavailable
from storage.mongo.failures import translated

BEHIND = (
    " (configured timeouts: connectTimeoutMS: 3000.0ms), Timeout: 3.0s, Topology Description: "
    "<TopologyDescription servers: [<ServerDescription ('h', 1) error=AutoReconnect('timed out SSL')>]>"
)


def search(text: str) -> ServerSelectionTimeoutError:
    return ServerSelectionTimeoutError(text + BEHIND)


TOLD: dict[str, tuple[PyMongoError, str]] = {
    "refused": (
        search("h:1: [Errno 111] Connect call failed ('h', 1)"),
        "nothing listens there: see that it",
    ),
    "unknown host": (search("h:1: [Errno -2] Name or service not known"), "no host has such a name: correct"),
    "no name service": (
        search("h:1: Temporary failure in name resolution"),
        "see that the name service runs",
    ),
    "no election": (
        search("No primary available for writes"),
        "elected none: if that lasts, look at rs.status",
    ),
    "no member": (search("No replica set members found yet"), "no member of its replica set answers: see"),
    "silence": (search("h:1: timed out"), "do not answer: look at them"),
    "certificate": (
        search("SSL handshake failed: h:1: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
        "not trusted: name the authority by tlsCAFile",
    ),
    "TLS at one end": (search("SSL handshake failed: h:1: "), "set tls in the URL"),
    "plain at one end": (search("h:1: connection closed"), "set tls in the URL"),
    "another server": (
        search("Message length (1347703880) is larger than server max message size"),
        "no MongoDB",
    ),
    "something else": (search("who knows"), "none was found: see that it runs"),
    "credentials": (OperationFailure("bad auth", 18), "check user, password and authSource"),
    "no right": (
        OperationFailure("not authorized on x to execute", 13),
        "the role readWrite on the database",
    ),
    "no primary": (
        NotPrimaryError("not primary", {"code": 10107}),
        "no primary at the moment: if",
    ),
    "stepping down": (OperationFailure("shutting down", 91), "no primary at the moment: if"),
    "no majority": (
        OperationFailure("waiting for replication timed out", 64),
        "majority of MongoDB's members",
    ),
    "full disk": (OperationFailure("disk", 14031), "no room on its disk: make some"),
    "slow": (OperationFailure("exceeded time limit", 50), "did not answer in time: look at its load"),
    "silent": (
        NetworkTimeout("h:1: timed out"),
        "did not answer in time: look at its load, and at the network",
    ),
    "cut": (AutoReconnect("h:1: connection closed"), "connection to MongoDB was lost: see that it runs"),
    "odd": (OperationFailure("something odd", 12345), "(code 12345): its log says why"),
    "the driver's own": (PyMongoError("oops"), "driver has failed (PyMongoError): the log"),
}


@pytest.mark.parametrize(("error", "said"), TOLD.values(), ids=TOLD)
def test_it_is_a_sentence_that_says_what_to_do(error: PyMongoError, said: str) -> None:
    told = str(translated(error))
    assert said in told
    assert told.count(": ") == 1, "what is wrong, and behind the colon what to do"
    for raw in ("Topology", "Errno", "configured", "bad auth", "oops", "h:1"):
        assert raw not in told


def test_what_may_have_happened_is_unknown_and_the_rest_unavailable() -> None:
    assert type(translated(AutoReconnect("cut"), sent=True)) is CommitUnknown
    assert type(translated(AutoReconnect("cut"))) is StoreUnavailable
