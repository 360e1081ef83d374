"""``parley chat --record``: what happens in a sitting, written down as a test."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parley_client import AsyncConversation, ParleyError, events
from parley_client.events import AnyEvent

from server.cli.errors import CANNOT_START, USAGE, CliError
from server.cli.project import Project, shown

if TYPE_CHECKING:
    from parley_client import Stream

    from server.engine.flow.model import Flow


class Recorder:
    """Listens to each conversation of a sitting; each becomes a test of the file.

    Args:
        file: is written at the end, and must not be there.
        flows: the project's, which say what is personal.
    """

    def __init__(self, file: Path, flows: "tuple[Flow, ...]") -> None:
        self._file = file
        self._flows = flows
        self._heard: list[list[Mapping[str, Any]]] = []
        self._streams: list[Stream[AnyEvent]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def of(cls, project: Project, file: Path) -> "Recorder":
        """Return one for a project.

        Raises:
            CliError: the file is there, or the flows cannot be read: nobody could tell what is personal.
        """
        from server.engine.flow.loader import load_folder

        if file.exists():
            raise CliError(f"{file} is there; name a file that is not, or remove it.", USAGE)
        report = load_folder(project.settings({}).flows)
        if not report.flows or not report.ok:
            raise CliError(
                f"--record needs the flows, to know what is personal, and those in {shown(project.folder)} "
                "cannot be read: name the project on the command line.",
                USAGE,
            )
        return cls(file, tuple(loaded.flow for loaded in report.flows))

    def listen(self, chat: AsyncConversation) -> None:
        """Write down what happens in this conversation from now on."""
        heard: list[Mapping[str, Any]] = []
        stream = chat.events()
        self._heard.append(heard)
        self._streams.append(stream)
        self._tasks.append(asyncio.create_task(self._hear(stream, heard)))

    async def _hear(self, stream: "Stream[AnyEvent]", heard: list[Mapping[str, Any]]) -> None:
        try:
            async for event in stream:
                if isinstance(event, events.Event) and event.offset is not None:
                    heard.append(_as_on_the_wire(event))
        except ParleyError:
            pass  # what was heard until then is kept

    async def finish(self) -> int:
        """Write the file; return how many conversations are in it, 0 where nothing was said.

        Raises:
            CliError: it cannot be written.
        """
        from server.testing.recording import as_yaml, has_insight, record

        for stream in self._streams:
            stream.finish()
        await asyncio.gather(*self._tasks)
        said = [heard for heard in self._heard if heard]
        if not said:
            return 0
        tests = [record(f"Recorded chat {n}", heard, self._flows) for n, heard in enumerate(said, 1)]
        text = as_yaml(tests, insight=all(map(has_insight, said)))
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CliError(f"{self._file} cannot be written: {error.strerror}.", CANNOT_START) from None
        return len(said)


def _as_on_the_wire(event: events.Event) -> Mapping[str, Any]:
    return {
        "type": event.type,
        "offset": event.offset,
        "time": event.time,
        "step_id": event.step_id,
        "command_id": event.command_id,
        "cause": event.cause,
        "data": event.data,
    }
