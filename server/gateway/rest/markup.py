"""The two reference pages, as HTML without a script: made on the server from the documents they show."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

import orjson

Schema = Mapping[str, Any]

STYLE: Final = """
:root { color-scheme: light dark; --line: #8885; --quiet: #777; --mark: #0b6bcb; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1rem; }
h1, h2 { border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 0.25rem; }
code, pre { font: 0.9em/1.4 ui-monospace, monospace; }
pre { border: 1px solid var(--line); overflow-x: auto; padding: 0.5rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.75rem 0.25rem 0; text-align: left;
  vertical-align: top; }
a { color: var(--mark); }
.method { background: var(--mark); border-radius: 0.25rem; color: #fff; padding: 0 0.4rem; }
.quiet { color: var(--quiet); }
nav ul { columns: 24rem; list-style: none; padding: 0; }
nav li { overflow-wrap: anywhere; }
details { margin: 0.25rem 0; }
"""


def rest_page(document: Mapping[str, Any]) -> str:
    """Return the page of the OpenAPI document."""
    schemas = document["components"]["schemas"]
    operations = [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    parts = []
    for tag in document["tags"]:
        mine = [found for found in operations if tag["name"] in found[2]["tags"]]
        if mine:
            parts.append(f"<h2>{escape(tag['name'].capitalize())}</h2><p>{escape(tag['description'])}</p>")
            parts += [_operation(*found, document["components"]["parameters"]) for found in mine]
    links = [(op["operationId"], f"{method.upper()} {path}") for path, method, op in operations]
    other = (
        '<p>Also: <a href="/docs/socket">the socket</a>, <a href="/v1/openapi.json">this as OpenAPI</a>.</p>'
    )
    return _page(document["info"], other + _nav(links) + "".join(parts) + _all(schemas))


def socket_page(document: Mapping[str, Any]) -> str:
    """Return the page of the AsyncAPI document."""
    components = document["components"]
    parts, links = [], []
    for side, title in (("client", "Client to server"), ("server", "Server to client")):
        parts.append(f"<h2>{title}</h2>")
        for name, message in components["messages"].items():
            if name.startswith(f"{side}."):
                links.append((name, f"{side}: {message['name']}"))
                parts.append(_message(name, message, components["schemas"]))
    other = '<p>Also: <a href="/docs">REST</a>, <a href="/v1/asyncapi.json">this as AsyncAPI</a>.</p>'
    return _page(document["info"], other + _nav(links) + "".join(parts) + _all(components["schemas"]))


def _page(info: Mapping[str, str], body: str) -> str:
    title = escape(f"{info['title']} {info['version']}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="stylesheet" href="/docs/style.css"></head>'
        f"<body><main><h1>{title}</h1><p>{_prose(info['description'])}</p>{body}</main></body></html>\n"
    )


def _nav(links: Iterable[tuple[str, str]]) -> str:
    items = "".join(f'<li><a href="#{escape(to)}">{escape(name)}</a></li>' for to, name in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _prose(text: str) -> str:
    """Return text with its `code` marked up."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def _resolved(parameter: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    return shared[_model_name(parameter)] if "$ref" in parameter else parameter


def _operation(path: str, method: str, operation: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    head = f'<h3 id="{escape(operation["operationId"])}"><span class="method">{method.upper()}</span> '
    parts = [f"{head}<code>{escape(path)}</code></h3><p>{_prose(operation['summary'])}.</p>"]
    if not operation["security"]:
        parts.append('<p class="quiet">Served without a token.</p>')
    rows = [
        (f"<code>{escape(p['name'])}</code>", p["in"], _type(p["schema"]), _prose(p.get("description", "")))
        for p in (_resolved(parameter, parameters) for parameter in operation["parameters"])
    ]
    parts.append(_details("Parameters", _table(("name", "in", "type", "meaning"), rows)))
    body = operation.get("requestBody")
    if body is not None:
        content = body["content"]["application/json"]
        example = orjson.dumps(content["example"], option=orjson.OPT_INDENT_2).decode()
        need = "required" if body["required"] else "may be left out"
        parts.append(f"<p>Body ({need}): {_type(content['schema'])}</p><pre>{escape(example)}</pre>")
    answers = [
        (status, _prose(answer["description"]), ", ".join(_contents(answer.get("content", {}))))
        for status, answer in operation["responses"].items()
    ]
    parts.append(_table(("status", "meaning", "body"), answers))
    return "".join(parts)


def _contents(content: Mapping[str, Any]) -> Iterable[str]:
    for media, shown in content.items():
        yield f"{_type(shown['schema'])} <span class=quiet>{escape(media)}</span>" if shown else escape(media)


def _message(name: str, message: Mapping[str, Any], schemas: Schema) -> str:
    model = _model_name(message["payload"])
    schema = schemas[model]
    said = _prose(schema.get("description", ""))
    return (
        f'<h3 id="{escape(name)}"><code>{escape(message["name"])}</code></h3><p>{said}</p>{_fields(schema)}'
    )


def _all(schemas: Schema) -> str:
    shown = [
        f'<h3 id="model-{escape(name)}">{escape(name)}</h3><p>{_prose(schema.get("description", ""))}</p>'
        f"{_fields(schema)}"
        for name, schema in schemas.items()
    ]
    return f"<h2>Records</h2>{''.join(shown)}"


def _fields(schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (f"<code>{escape(name)}</code>", _type(field), "" if name in required else "optional",
         _prose(field.get("description", "")))
        for name, field in schema.get("properties", {}).items()
    ]  # fmt: skip
    return _table(("field", "type", "need", "meaning"), rows) if rows else ""


def _type(schema: Schema) -> str:
    """Return a schema's type in a few words; models are links."""
    if "$ref" in schema:
        name = _model_name(schema)
        return f'<a href="#model-{escape(name)}">{escape(name)}</a>'
    for words in ("anyOf", "oneOf"):
        if words in schema:
            return " or ".join(_type(option) for option in schema[words])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if "enum" in schema:
        return " ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return escape(str(schema.get("format") or schema.get("type") or "any JSON"))


def _model_name(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"
