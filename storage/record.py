"""``record``: how what is made and passed on in every turn is declared."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(*, frozen: bool, slots: bool) -> Any:
        """Make a record: frozen for the type checker, which finds every assignment there is.

        At run time a frozen dataclass sets each field by a call, which is a tenth of a whole turn here.
        """
        return dataclass(slots=slots)


__all__ = ["record"]
