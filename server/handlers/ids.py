"""Ids that the server makes for conversations."""

import hashlib
import secrets

from server.auth.principal import Principal


def new_conversation_id(principal: Principal, key: str | None, purpose: str = "conversation") -> str:
    """Return a new id of 128 bits: random, or made of the key, so that sending it again makes it again."""
    if key is None:
        return secrets.token_hex(16)
    told = "\0".join((purpose, principal.tenant_id, principal.user_id, key))
    return hashlib.sha256(told.encode()).hexdigest()[:32]
