"""The OpenAPI 3.1 document: the table of operations and the models, as JSON."""

import re
from collections.abc import Container, Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from protocol.errors import ERRORS, ErrorCode
from server.gateway.rest.answers import ErrorAnswer
from server.gateway.rest.operations import EVENTS, JSON, OPERATIONS, TAGS, Operation, Parameter, Reply

PATH_SCHEMAS: Final = {
    "conversation_id": {"type": "string", "pattern": "^[A-Za-z0-9._~-]{1,64}$", "examples": ["c1"]},
    "flow_id": {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$", "examples": ["book_appointment"]},
    "key_id": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-z0-9_]+$"},
    "execution_id": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9-]+$"},
}
IDS: Final = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
KEY: Final = {
    "type": "string", "minLength": 8, "maxLength": 128, "pattern": "^[!-~][ -~]{6,126}[!-~]$",
}  # fmt: skip
DESCRIPTION: Final = (
    "Parley over HTTP. A chat goes over the socket (`/docs/socket`); this is for what has none: another "
    "system that says something or starts a workflow, an operator's list, a probe. Errors carry the wire's "
    "error object."
)


def document(version: str, there: Container[tuple[str, str]] | None = None) -> dict[str, Any]:
    """Return the document of the operations that are ``there``, by (method, path); None: of all."""
    shown = [op for op in OPERATIONS if there is None or op.key in there]
    refs, schemas = _schemas(shown)
    paths: dict[str, dict[str, Any]] = {}
    for op in shown:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley", "version": version, "description": DESCRIPTION},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": said} for name, said in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {p.name: _parameter(p) for p in (_KEYED, *_EVERYWHERE)},
            "headers": {
                "X-Request-ID": {"description": "The request's id, given or made.", "schema": IDS},
                "X-Correlation-ID": {"description": "What it belongs to, given or made.", "schema": IDS},
                "Retry-After": {
                    "description": "Seconds until trying again may help.",
                    "schema": {"type": "integer", "minimum": 1},
                },
                "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
                "Allow": {"description": "The methods of this address.", "schema": {"type": "string"}},
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "`parley token` makes one."}
            },
        },
    }


class _Untitled(GenerateJsonSchema):
    """Leaves titles off fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


Refs = dict[type[BaseModel], dict[str, Any]]


def _schemas(operations: Iterable[Operation]) -> tuple[Refs, dict[str, Any]]:
    """Return a reference for each model, and the component schemas that they lead to."""
    wanted: dict[type[BaseModel], JsonSchemaMode] = {ErrorAnswer: "serialization"}
    for op in operations:
        if op.body is not None:
            wanted[op.body] = "validation"
        for reply in op.replies.values():
            streamed = reply.stream[1] if reply.stream is not None else None
            for model in (*reply.models, *((streamed,) if streamed is not None else ())):
                wanted[model] = "serialization"
    found, definitions = models_json_schema(
        list(wanted.items()), ref_template="#/components/schemas/{model}", schema_generator=_Untitled
    )
    refs = {model: found[(model, mode)] for model, mode in wanted.items()}
    return refs, dict(sorted(definitions["$defs"].items()))


def _operation(op: Operation, refs: Refs) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "operationId": op.operation_id,
        "tags": [op.tag],
        "summary": op.summary,
        "security": [] if op.open else [{"bearer": []}],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS[name]}
                for name in _names(op)
            ),
            *map(_parameter, op.parameters),
            *(
                {"$ref": f"#/components/parameters/{p.name}"}
                for p in (*([_KEYED] if op.keyed else []), *_EVERYWHERE)
            ),
        ],
        "responses": {
            **{str(status): _reply(reply, op, refs) for status, reply in sorted(op.replies.items())},
            **{str(status): _refusal(status, codes, refs) for status, codes in sorted(refusals(op).items())},
        },
    }
    if op.body is not None:
        shown["requestBody"] = {
            "required": op.body_required,
            "content": {JSON: {"schema": refs[op.body], "example": op.example}},
        }
    return shown


_KEYED: Final = Parameter(
    "Idempotency-Key",
    "Sent again under the same key, it changes nothing and is answered the same.",
    KEY,
    "header",
)
_EVERYWHERE: Final = (
    Parameter("X-Request-ID", "This request's id; made where it is missing.", IDS, "header"),
    Parameter("X-Correlation-ID", "What the request belongs to; made where it is missing.", IDS, "header"),
)


def _names(op: Operation) -> list[str]:
    return re.findall(r"{(\w+)}", op.path)


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": False,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _reply(reply: Reply, op: Operation, refs: Refs) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if reply.media is not None:
        schemas = [refs[model] for model in reply.models]
        schema = {} if not schemas else schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content[reply.media] = {"schema": schema} if schema else {}
    if reply.stream is not None:
        said, model = reply.stream
        text: dict[str, Any] = {"type": "string", "description": said}
        if model is not None:
            text |= {"contentMediaType": JSON, "contentSchema": refs[model]}
        content[EVENTS] = {"schema": text}
    headers = _headers("X-Request-ID", "X-Correlation-ID")
    headers |= {
        name: {"description": said, "schema": {"type": "string"}} for name, said in reply.headers.items()
    }
    if op.keyed:
        headers["Idempotency-Key"] = {"description": "The request's key, if it had one.", "schema": KEY}
    return {"description": reply.description, "headers": headers, **({"content": content} if content else {})}


def refusals(op: Operation) -> dict[int, list[ErrorCode]]:
    """Return the codes that an operation may refuse by, by status."""
    codes = [ErrorCode.INTERNAL, *op.errors]
    if not op.open:
        codes += [ErrorCode.BAD_REQUEST, ErrorCode.UNAUTHORIZED, ErrorCode.TOKEN_EXPIRED,
                  ErrorCode.ORIGIN_NOT_ALLOWED, ErrorCode.STORE_UNAVAILABLE]  # fmt: skip
    if op.body is not None:
        codes += [ErrorCode.BAD_REQUEST, ErrorCode.INVALID_FRAME, ErrorCode.PAYLOAD_TOO_LARGE,
                  ErrorCode.UNSUPPORTED_MEDIA_TYPE]  # fmt: skip
    found: dict[int, list[ErrorCode]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(ERRORS[code].http_status or 500, []).append(code)
    return {status: found[status] for status in found if status not in op.replies}


def _refusal(status: int, codes: list[ErrorCode], refs: Refs) -> dict[str, Any]:
    names = ["X-Request-ID", "X-Correlation-ID"]
    if status == 401:
        names.append("WWW-Authenticate")
    if status in (429, 503):
        names.append("Retry-After")
    return {
        "description": ", ".join(f"`{code.value}`" for code in codes),
        "headers": _headers(*names),
        "content": {JSON: {"schema": refs[ErrorAnswer]}},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
