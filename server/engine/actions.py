"""Python actions: plain functions in the modules that ``PARLEY_ACTIONS`` lists.

A flow calls them ``module.function`` by the module's last name. Nothing of ours has to be imported; who
wants to tell a flow *why* something failed raises ``ActionFailed``.
"""

import asyncio
import contextvars
import importlib
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from server.engine.depth import is_too_deep
from server.engine.inputs import FailureKind

log = logging.getLogger("parley.actions")

MESSAGE_MAX_CHARS: Final = 1000
THREADS: Final = 64
"""How many sync actions run at a time; others wait for their turn. None is made before it is needed."""

Progress = Callable[[str], Awaitable[None]]


class ActionFailed(Exception):  # noqa: N818 - what happened
    """Raised by an action that knows why it failed.

    Args:
        message: one sentence that may be shown to the user.
        kind: ``error``, ``timeout`` or ``unavailable``; a flow's ``retry.on`` names these.
        unknown: it may have happened nevertheless (only where ``effect: write``).
    """

    def __init__(self, message: str, *, kind: FailureKind = "error", unknown: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.unknown = unknown


class ActionsInvalid(Exception):  # noqa: N818
    """``PARLEY_ACTIONS`` names something that cannot be used; the message says what and why."""


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What an action is called with, first of all.

    ``key`` is constant over all attempts of one visit of a step: pass it on as the idempotency key of
    whatever the action changes. ``deadline`` is in ms since the epoch.
    """

    key: str
    tenant_id: str
    user_id: str | None
    conversation_id: str
    execution_id: str
    step_id: str
    attempt: int
    deadline: int
    correlation_id: str | None
    slots: Mapping[str, Any]
    variables: Mapping[str, Any]
    config: Mapping[str, Any]
    report: Progress
    log: logging.LoggerAdapter[logging.Logger] = field(repr=False)
    loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)

    def progress(self, text: str) -> Awaitable[None]:
        """Tell the watchers how far it is (``flow.custom`` named ``action.progress``).

        ``await`` it in an async action. A sync action just calls it: it runs in a thread, and the
        report is handed to the event loop.
        """
        if self.loop is None:
            return self.report(text)
        asyncio.run_coroutine_threadsafe(_as_coroutine(self.report(text)), self.loop)
        return _Handed()


class _Handed:
    """Awaitable, and done: a sync action cannot wait for the event loop, and need not."""

    def __await__(self) -> Generator[Any, None, None]:
        return None
        yield


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an action did not return a value. ``message`` is safe to show."""

    kind: FailureKind
    message: str
    unknown: bool = False


KINDS: Final = ("error", "timeout", "unavailable", "bad_result")
"""What an action may say of its failure; that it was interrupted, say, is not its to tell."""
_UNAVAILABLE: Final = (ConnectionError, OSError)


class _Raised(Exception):  # noqa: N818 - what happened
    """What a thread raised that a future does not carry, or that would end more than the action."""


class Actions:
    """The loaded actions by name."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._functions = dict(functions or {})
        # Not the event loop's own threads: those look up the names of hosts, for stores and buses, too, and
        # actions that hang would keep them all.
        self._threads = ThreadPoolExecutor(THREADS, "parley-action")

    @property
    def names(self) -> frozenset[str]:
        """The names that flows may call."""
        return frozenset(self._functions)

    @classmethod
    def load(cls, modules: Sequence[str], folder: Path | None = None) -> "Actions":
        """Import ``modules`` (``folder`` is appended to ``sys.path``). Raises ActionsInvalid."""
        if folder is not None and str(folder) not in sys.path:
            sys.path.append(str(folder))
        functions: dict[str, Callable[..., Any]] = {}
        for name in dict.fromkeys(modules):
            short = name.rpartition(".")[2]
            for function_name, function in _functions_of(name).items():
                action = f"{short}.{function_name}"
                if action in functions:
                    where = f"in {functions[action].__module__} and in {name}"
                    raise ActionsInvalid(
                        f'PARLEY_ACTIONS has two actions "{action}", {where}: give one of them another name.'
                    )
                functions[action] = function
        return cls(functions)

    async def run(self, name: str, context: ActionContext, arguments: Mapping[str, Any]) -> Any | Failure:
        """Call the action; return its value as plain JSON, or a ``Failure``. Raises only CancelledError."""
        function = self._functions.get(name)
        if function is None:
            return Failure("error", f'The action "{name}" is not available on this server.')
        try:
            value = await self._call(function, _own(context), _copy(arguments))
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except ActionFailed as failed:
            return _told(name, failed)
        except TimeoutError:
            return Failure("timeout", f'The action "{name}" took too long.', unknown=True)
        except _UNAVAILABLE as error:
            log.warning("action %s: %s", name, type(error).__name__, exc_info=True)
            return Failure("unavailable", f'The action "{name}" could not reach what it needs.', unknown=True)
        except BaseException as error:
            raised = error.__cause__ if isinstance(error, _Raised) else error
            log.warning("action %s: %s", name, type(raised).__name__, exc_info=True)
            return Failure("error", f'The action "{name}" failed.')
        try:
            plain = orjson.loads(orjson.dumps(value))
            if not is_too_deep(plain):
                return plain
        except (TypeError, ValueError, RecursionError):
            pass
        log.warning("action %s returned a %s that cannot be kept as JSON", name, type(value).__name__)
        return Failure("bad_result", f'The action "{name}" gave an unusable answer.')

    async def _call(
        self, function: Callable[..., Any], context: ActionContext, arguments: Mapping[str, Any]
    ) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(context, **arguments)
        loop = asyncio.get_running_loop()
        call = partial(_in_thread, function, replace(context, loop=loop), arguments)
        value = await loop.run_in_executor(self._threads, contextvars.copy_context().run, call)
        return await value if inspect.isawaitable(value) else value


def sayable(text: str, limit: int) -> str:
    """Return what an author's code says as text that can be stored: well-formed, and not too long."""
    return text[:limit].encode("utf-8", "replace").decode()


def _told(name: str, failed: ActionFailed) -> Failure:
    # A class of an author's own may have been made without any of these, or with something else in them.
    message: object = getattr(failed, "message", None)
    kind: Any = getattr(failed, "kind", None)
    if not isinstance(message, str):  # whatever it is, it was not written for the user
        message = f'The action "{name}" failed.'
    unknown = bool(getattr(failed, "unknown", False))
    return Failure(kind if kind in KINDS else "error", sayable(message, MESSAGE_MAX_CHARS), unknown)


def _own(context: ActionContext) -> ActionContext:
    """Return a context that its action may do with as it likes: what it holds is nobody else's.

    Otherwise a list that an action sorts would be another in the conversation, and in the flow's own
    declaration, which all conversations begin with.
    """
    slots, variables, config = map(_copy, (context.slots, context.variables, context.config))
    return replace(context, slots=slots, variables=variables, config=config)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


def _in_thread(function: Callable[..., Any], context: ActionContext, arguments: Mapping[str, Any]) -> Any:
    try:
        return function(context, **arguments)
    except StopIteration as error:  # which a future refuses to take, and would wait for ever
        raise _Raised from error
    except Exception:
        raise
    except BaseException as error:
        raise _Raised from error


def _functions_of(module_name: str) -> dict[str, Callable[..., Any]]:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ActionsInvalid(
            f'PARLEY_ACTIONS names "{module_name}", but there is no module "{error.name}"; '
            "check the name, and that its folder is where the server runs."
        ) from error
    except Exception as error:
        raise ActionsInvalid(
            f'PARLEY_ACTIONS names "{module_name}", but importing it raised {type(error).__name__}: {error}'
        ) from error
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__
    }
