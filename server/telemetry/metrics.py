"""Metrics: plain numbers that the server counts up, turned into Prometheus text when somebody asks.

Counting is an attribute, a dictionary entry or a list element; the client library, its locks and labels
come into play at a scrape only (and are imported then). What another part counts already is read from
there at a scrape (``read``), so that nothing is counted twice.

All of it belongs to one event loop. Labels come from fixed vocabularies (codes, outcomes), never from
what a peer sent; so the number of series is bounded.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Number = int | float
Dump = list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]
"""Families as plain JSON: name, help, type, and samples as name, labels and value."""


class Histogram:
    """Counts durations by size. ``observe`` takes seconds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many at or below it), the last one ``+Inf``."""
        total, out = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            out.append((bound, float(total)))
        return out

    @property
    def sum(self) -> float:
        """All durations together, in seconds."""
        return self._sum


class _Reading(NamedTuple):
    name: str
    text: str
    kind: Literal["counter", "gauge"]
    read: Callable[[], Number | Mapping[str, Number]]
    label: str | None


class Metrics:
    """Everything that one server counts.

    Attributes:
        turns: ended turns by outcome: ``completed``, ``failed``.
        turn_seconds: from a command's arrival to the commit that ends its turn.
        connections: open sockets.
        frames: client frames received.
        errors: refusals that peers were told, by error code.
        closes: closed sockets by close code.
        outbox_bytes: bytes waiting in all outboxes.
        commits: commits by outcome: ``committed``, ``conflict``, ``duplicate``, ``unknown``.
        effects: side effects that were run.
        store_seconds: how long commits took, waiting for their group and its sync included.
    """

    def __init__(self) -> None:
        self.turns: Counter[str] = Counter()
        self.turn_seconds = Histogram()
        self.connections = 0
        self.frames = 0
        self.errors: Counter[str] = Counter()
        self.closes: Counter[str] = Counter()
        self.outbox_bytes = 0
        self.commits: Counter[str] = Counter()
        self.effects = 0
        self.store_seconds = Histogram()
        self._readings: dict[str, _Reading] = {}
        self._registry: CollectorRegistry | None = None
        self._read_own()

    def read(
        self,
        name: str,
        text: str,
        kind: Literal["counter", "gauge"],
        read: Callable[[], Number | Mapping[str, Number]],
        *,
        label: str | None = None,
    ) -> None:
        """Let ``name`` be read by calling ``read`` at each scrape; it replaces what had that name.

        Args:
            name: with prefix and unit, e.g. ``parley_turns_total``.
            text: the help text.
            kind: a counter only rises.
            read: returns the number, or with ``label`` the number of each label value.
            label: name of the one label.
        """
        self._readings[name] = _Reading(name, text, kind, read, label)

    @staticmethod
    def warm() -> None:
        """Import the client library, so that the first scrape need not; in a thread, once ready."""
        import prometheus_client.exposition  # noqa: F401

    def render(self) -> bytes:
        """Return all metrics, those of the process included, as ``CONTENT_TYPE``."""
        from prometheus_client.exposition import generate_latest

        return generate_latest(self._own_registry())

    def dump(self) -> Dump:
        """Return what ``render`` shows as plain JSON, to be shown by another process."""
        return [
            (
                family.name,
                family.documentation,
                family.type,
                [(sample.name, dict(sample.labels), float(sample.value)) for sample in family.samples],
            )
            for family in self._own_registry().collect()
        ]

    @staticmethod
    def render_all(dumps: Mapping[str, Dump]) -> bytes:
        """Return the metrics of several processes as ``CONTENT_TYPE``, each with its label ``worker``."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.core import Metric
        from prometheus_client.exposition import generate_latest

        families: dict[str, Metric] = {}
        for worker, dump in dumps.items():
            for name, text, kind, samples in dump:
                family = families.setdefault(name, Metric(name, text, kind))
                for sample, labels, value in samples:
                    family.add_sample(sample, {**labels, "worker": worker}, value)
        registry = CollectorRegistry()
        registry.register(_Families(list(families.values())))
        return generate_latest(registry)

    def _own_registry(self) -> "CollectorRegistry":
        from prometheus_client import CollectorRegistry, ProcessCollector

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)  # a collector is what has `collect`
            ProcessCollector(registry=self._registry)
        return self._registry

    def collect(self) -> Iterator["Metric"]:
        """Yield the metric families, for prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for reading in self._readings.values():
            family = CounterMetricFamily if reading.kind == "counter" else GaugeMetricFamily
            metric = family(reading.name, reading.text, labels=[reading.label] if reading.label else [])
            value = reading.read()
            if isinstance(value, Mapping):
                for label, number in sorted(value.items()):
                    metric.add_metric([label], number)
            else:
                metric.add_metric([], value)
            yield metric
        for name, text, histogram in (
            (
                "parley_turn_seconds",
                "Time from a command's arrival to the end of its turn.",
                self.turn_seconds,
            ),
            ("parley_store_seconds", "Time that commits took.", self.store_seconds),
        ):
            yield HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.sum)

    def _read_own(self) -> None:
        self.read("parley_turns_total", "Ended turns.", "counter", lambda: self.turns, label="outcome")
        self.read("parley_connections", "Open sockets.", "gauge", lambda: self.connections)
        self.read("parley_frames_total", "Client frames received.", "counter", lambda: self.frames)
        self.read("parley_errors_total", "Refusals sent.", "counter", lambda: self.errors, label="code")
        self.read("parley_closes_total", "Closed sockets.", "counter", lambda: self.closes, label="code")
        self.read("parley_outbox_bytes", "Bytes waiting to be sent.", "gauge", lambda: self.outbox_bytes)
        self.read("parley_commits_total", "Commits.", "counter", lambda: self.commits, label="outcome")
        self.read("parley_effects_total", "Side effects run.", "counter", lambda: self.effects)


class _Families:
    """A collector of what is known already."""

    def __init__(self, families: "list[Metric]") -> None:
        self._families = families

    def collect(self) -> "list[Metric]":
        return self._families
