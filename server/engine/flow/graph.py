"""A flow as a picture: its steps and the ways between them, as Mermaid text or SVG.

The picture is a column of steps in the order of the file, because that is how an author knows the flow;
the ways that leave this order are arcs beside it, forward ones on the right and backward ones on the left.
So nothing has to be laid out, and a small change of the flow is a small change of the picture.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import Any, Final

from server.engine.flow.expressions import Expression
from server.engine.flow.model import Flow, Step

END: Final = None
"""Where a way leads that leaves the flow."""

_LABEL_CHARS: Final = 40


@dataclass(frozen=True, slots=True)
class Way:
    """A way from a step: to another, or (None) out of the flow. ``label`` is empty on the plain way on."""

    source: str
    target: str | None
    label: str = ""


def ways(flow: Flow) -> list[Way]:
    """Return the ways of a flow, by step, those that its author named first."""
    return [way for step in flow.steps for way in _ways_of(flow, step)]


def _ways_of(flow: Flow, step: Step) -> Iterator[Way]:
    common = step.common
    named = list(_named(step))
    yield from (Way(common.step_id, target, label) for label, target in named)
    if common.on_error is not None:
        yield Way(common.step_id, common.on_error, "on_error")
    if step.keyword == "end":
        yield Way(common.step_id, END)
    elif common.goto is not None:
        yield Way(common.step_id, common.goto)
        if common.if_ is not None:
            yield Way(common.step_id, flow.after(common.step_id), "skipped")
    elif step.keyword not in ("branch", "accept", "link") or _falls_through(step):
        yield Way(common.step_id, flow.after(common.step_id))


def _named(step: Step) -> Iterator[tuple[str, str]]:
    """Yield (label, target) for what the step's own keys name."""
    targets = set(step.targets())
    cases: Iterable[tuple[Expression, str]] = getattr(step, "cases", ())
    for condition, target in cases:
        yield condition.source, target
    if isinstance(other := getattr(step, "otherwise", None), str):
        yield "else", other
    keys: Any = step
    for field in fields(keys) if is_dataclass(keys) else ():
        value = getattr(keys, field.name)
        if field.name != "otherwise" and isinstance(value, str) and value in targets:
            yield field.name, value


def _falls_through(step: Step) -> bool:
    """Tell whether a branch without ``else``, or a decision without a way of its own, goes on below."""
    if step.keyword == "branch":
        return getattr(step, "otherwise", None) is None
    if step.keyword == "accept":
        return getattr(step, "accepted", None) is None or getattr(step, "rejected", None) is None
    return False


# --- Mermaid --------------------------------------------------------------------------------------

_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "collect": ("[/", "/]"),
    "clarify": ("[/", "/]"),
    "accept": ("{{", "}}"),
    "branch": ("{", "}"),
    "action": ("[[", "]]"),
    "end": ("([", "])"),
    "wait": ("(", ")"),
    "handoff": ("(", ")"),
}


def mermaid(flow: Flow) -> str:
    """Return the flow as a Mermaid flowchart."""
    places = {step.common.step_id: f"s{place}" for place, step in enumerate(flow.steps)}
    lines = ["---", f"title: {_plain(flow.name)}", "---", "flowchart TD"]
    for step in flow.steps:
        opening, closing = _SHAPES.get(step.keyword, ("[", "]"))
        text = _quoted(f"{step.common.step_id}\n{step.keyword}")
        lines.append(f"    {places[step.common.step_id]}{opening}{text}{closing}")
    found = ways(flow)
    if any(way.target is END for way in found):
        lines.append('    stop((" "))')
    for way in found:
        target = places[way.target] if way.target is not None else "stop"
        label = f"|{_quoted(_short(way.label))}|" if way.label else ""
        lines.append(f"    {places[way.source]} -->{label} {target}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return text that Mermaid takes as it is: its entities stand for what it would read as syntax."""
    entities = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": "<br/>"}
    return '"' + "".join(entities.get(character, character) for character in text) + '"'


def _plain(text: str) -> str:
    return " ".join(text.replace('"', "'").split())


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_CHARS else label[: _LABEL_CHARS - 1] + "…"


# --- SVG ------------------------------------------------------------------------------------------

_BOX_HEIGHT, _GAP, _TOP = 44, 32, 48
_EXIT = 15  # between the lines that leave a box on one side
_LANE = 22
_CHAR, _SMALL_CHAR = 7.9, 6.7
_STYLE: Final = (
    "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#1b1f24}"
    ".kind{fill:#57606a;font-size:11px}"
    ".label{fill:#57606a;font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:4px}"
    ".title{font-size:15px;font-weight:600}"
    ".box{fill:#fff;stroke:#57606a}.effect{stroke:#9a6700}.people{stroke:#0969da}.end{stroke:#1a7f37}"
    ".way{fill:none;stroke:#8c959f}.error{stroke:#cf222e;stroke-dasharray:4 3}"
    "svg{background:#fff}"
)
_CLASSES: Final[Mapping[str, str]] = {
    "action": " effect",
    "call": " effect",
    "collect": " people",
    "clarify": " people",
    "accept": " people",
    "handoff": " people",
    "end": " end",
}
_TROUBLE: Final = frozenset({"on_error", "on_exhausted", "on_timeout", "rejected"})


def svg(flow: Flow) -> str:
    """Return the flow as an SVG document that needs nothing else."""
    picture = _Picture(flow)
    width, height = picture.size
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
            f'aria-label="{escape(flow.name, quote=True)}">',
            f"<style>{_STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#8c959f"/></marker></defs>',
            f'<text class="title" x="24" y="28">{escape(flow.name)}</text>',
            *picture.lines(),
            *picture.boxes(),
            *picture.labels(),
            "</svg>",
            "",
        ]
    )


class _Picture:
    """Where things are: the column of boxes, and the arcs in lanes beside it."""

    def __init__(self, flow: Flow) -> None:
        self._steps = flow.steps
        self._rows = {step.common.step_id: row for row, step in enumerate(flow.steps)}
        found = ways(flow)
        self._straight = [way for way in found if self._is_straight(way)]
        arcs = [way for way in found if not self._is_straight(way)]
        self._right = self._lanes([way for way in arcs if self._leads_down(way)])
        self._left = self._lanes([way for way in arcs if not self._leads_down(way)])
        self._exits = self._ordered_exits()
        self._tops = list(self._column_tops())
        texts = [max(len(s.common.step_id), len(s.keyword) + 5) for s in flow.steps] or [8]
        self._width = max(120.0, max(texts) * _CHAR + 24)
        self._edge = 24 + self._side_width(self._left)
        self._title_width = len(flow.name) * 9.5 + 48

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        width = self._edge + self._width + self._side_width(self._right) + 24
        return max(width, self._title_width), self._tops[-1]

    def _row(self, step_id: str | None) -> int:
        return self._rows[step_id] if step_id is not None else len(self._rows)

    def _is_straight(self, way: Way) -> bool:
        """Tell whether a way is drawn inside the column: to the step below, or out of the flow."""
        return way.target is None or self._row(way.target) == self._row(way.source) + 1

    def _leads_down(self, way: Way) -> bool:
        return self._row(way.target) > self._row(way.source)

    def _lanes(self, arcs: list[Way]) -> dict[Way, int]:
        """Give each arc the innermost lane in which it meets no other; short ones first."""
        taken: list[list[tuple[int, int]]] = []
        lanes: dict[Way, int] = {}
        for way in sorted(arcs, key=lambda w: (abs(self._row(w.target) - self._row(w.source)), w.source)):
            first, last = sorted((self._row(way.source), self._row(way.target)))
            lane = next(
                (n for n, spans in enumerate(taken) if all(last < a or b < first for a, b in spans)),
                len(taken),
            )
            if lane == len(taken):
                taken.append([])
            taken[lane].append((first, last))
            lanes[way] = lane
        return lanes

    def _ordered_exits(self) -> dict[Way, int]:
        """Give each arc its place among those that leave its box on that side: so they do not cross."""
        exits: dict[Way, int] = {}
        for lanes, outermost_first in ((self._right, True), (self._left, False)):
            count: dict[str, int] = {}
            for way in sorted(lanes, key=lanes.__getitem__, reverse=outermost_first):
                exits[way] = count[way.source] = count.get(way.source, -1) + 1
        return exits

    def _height(self, step: Step) -> float:
        most = max((n for way, n in self._exits.items() if way.source == step.common.step_id), default=0)
        return max(_BOX_HEIGHT, 30 + (most + 1) * _EXIT)

    def _column_tops(self) -> Iterator[float]:
        top = float(_TOP)
        for step in self._steps:
            yield top
            top += self._height(step) + _GAP
        yield top

    def _side_width(self, lanes: Mapping[Way, int]) -> float:
        labels = max((len(_short(way.label)) * _SMALL_CHAR for way in lanes), default=0.0)
        return max((1 + max(lanes.values(), default=-1)) * _LANE, labels + 12 if labels else 0)

    def _bottom(self, step_id: str) -> float:
        row = self._row(step_id)
        return self._tops[row] + self._height(self._steps[row])

    def boxes(self) -> Iterator[str]:
        """Yield the steps."""
        middle = self._edge + self._width / 2
        for step, top in zip(self._steps, self._tops, strict=False):
            height = self._height(step)
            radius = height / 2 if step.keyword == "end" else 6
            condition = " if …" if step.common.if_ is not None else ""
            text = top + height / 2
            yield (
                f'<rect class="box{_CLASSES.get(step.keyword, "")}" x="{self._edge:.1f}" y="{top:.1f}" '
                f'width="{self._width:.1f}" height="{height:.0f}" rx="{radius:g}"/>'
                f'<text x="{middle:.1f}" y="{text - 3:.1f}" text-anchor="middle">'
                f"{escape(step.common.step_id)}</text>"
                f'<text class="kind" x="{middle:.1f}" y="{text + 13:.1f}" text-anchor="middle">'
                f"{escape(step.keyword + condition)}</text>"
            )

    def lines(self) -> Iterator[str]:
        """Yield the ways."""
        middle = self._edge + self._width / 2
        for way in self._straight:
            bottom = self._bottom(way.source)
            if way.target is None:
                yield f'<circle cx="{middle:.1f}" cy="{bottom + 10:.1f}" r="4" fill="#1a7f37"/>'
            else:
                yield self._path(way, f"M{middle:.1f} {bottom:.1f}V{self._tops[self._row(way.target)]:.1f}")
        for way in (*self._right, *self._left):
            edge, out, begin, end = self._arc(way)
            side, turn = (8 if out > edge else -8), (8 if end > begin else -8)
            yield self._path(
                way,
                f"M{edge:.1f} {begin:.1f}H{out - side:.1f}Q{out:.1f} {begin:.1f} {out:.1f} {begin + turn:.1f}"
                f"V{end - turn:.1f}Q{out:.1f} {end:.1f} {out - side:.1f} {end:.1f}H{edge:.1f}",
            )

    def _path(self, way: Way, d: str) -> str:
        kind = "way error" if way.label in _TROUBLE else "way"
        return f'<path class="{kind}" marker-end="url(#tip)" d="{d}"/>'

    def _arc(self, way: Way) -> tuple[float, float, float, float]:
        """Return the box's edge, the lane's place beside it, and the heights of both ends."""
        if way in self._right:
            edge, out = self._edge + self._width, (self._right[way] + 1) * _LANE
        else:
            edge, out = self._edge, -(self._left[way] + 1) * _LANE
        begin = self._tops[self._row(way.source)] + 22 + self._exits[way] * _EXIT
        return edge, edge + out, begin, self._tops[self._row(way.target)] + 10

    def labels(self) -> Iterator[str]:
        """Yield the words on the ways, above all lines."""
        for way in self._straight:
            if way.label and way.target is not None:
                yield self._label(way, self._edge + self._width / 2 + 6, self._bottom(way.source) + 18)
        for way in (*self._right, *self._left):
            if way.label:
                edge, out, begin, _ = self._arc(way)
                right = out > edge
                yield self._label(way, edge + (6 if right else -6), begin - 3, "start" if right else "end")

    def _label(self, way: Way, x: float, y: float, anchor: str = "start") -> str:
        text = escape(_short(way.label))
        return f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
