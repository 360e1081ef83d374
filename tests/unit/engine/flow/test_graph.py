"""The picture of a flow: every step and every way is in it, whatever they are called."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from server.engine.flow.graph import Way, mermaid, svg, ways
from server.engine.flow.loader import compile_flow
from server.engine.flow.model import Flow

FLOW = """
flow: order
name: 'Order "now" <b>'
slots:
  size: {type: choice, options: [small, large]}
steps:
  - id: ask
    collect: [size]
    max_attempts: 2
    on_exhausted: sorry
  - id: which
    branch:
      - {if: "slots.size == 'small' && 1 < 2", goto: small}
      - {else: large}
  - {id: small, say: "Small.", goto: done}
  - {id: large, say: "Large.", if: "slots.size == 'large'", goto: ask}
  - {id: done, end: completed}
  - {id: sorry, say: "Sorry."}
"""


@pytest.fixture
def flow() -> Flow:
    return compile_flow(FLOW, "order.yaml")


def test_the_ways_are_those_that_the_flow_takes(flow: Flow) -> None:
    assert ways(flow) == [
        Way("ask", "sorry", "on_exhausted"),
        Way("ask", "which"),
        Way("which", "small", "slots.size == 'small' && 1 < 2"),
        Way("which", "large", "else"),
        Way("small", "done"),
        Way("large", "ask"),
        Way("large", "done", "skipped"),
        Way("done", None),
        Way("sorry", None),
    ]


def test_mermaid_has_every_step_and_way_and_nothing_that_it_would_misread(flow: Flow) -> None:
    text = mermaid(flow)
    assert text.splitlines()[:4] == ["---", "title: Order 'now' <b>", "---", "flowchart TD"]
    assert '    s1{"which<br/>branch"}' in text
    assert "    s1 -->|\"slots.size == 'small' && 1 #lt; 2\"| s2" in text
    assert "    s4 --> stop" in text
    assert text.count(" -->") == len(ways(flow))


def test_the_picture_is_xml_with_every_step_and_label(flow: Flow) -> None:
    root = ElementTree.fromstring(svg(flow))
    assert root.get("aria-label") == flow.name
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {step.common.step_id for step in flow.steps} <= texts
    assert {"on_exhausted", "else", "skipped", flow.name} <= texts


def test_nothing_lies_outside_of_the_picture(flow: Flow) -> None:
    root = ElementTree.fromstring(svg(flow))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    boxes = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(boxes) == len(flow.steps)
    for box in boxes:
        assert float(box.get("x", -1)) >= 0
        assert float(box.get("x", 0)) + float(box.get("width", 0)) <= width
        assert float(box.get("y", 0)) + float(box.get("height", 0)) <= height


@pytest.mark.parametrize("path", sorted(Path("examples").glob("*/flows/*.yaml")), ids=lambda p: p.stem)
def test_the_flows_of_the_examples_can_be_drawn(path: Path) -> None:
    flow = compile_flow(path.read_text(encoding="utf-8"), path.name)
    assert mermaid(flow).count(" -->") == len(ways(flow))
    ElementTree.fromstring(svg(flow))
