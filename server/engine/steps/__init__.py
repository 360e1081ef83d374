"""The step types, one file each. Adding a step is adding a file with a class that has a ``keyword``."""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def step_types() -> Mapping[str, Any]:
    """Return the step classes by keyword."""
    found: dict[str, Any] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            keyword = getattr(value, "keyword", None)
            if isinstance(value, type) and isinstance(keyword, str) and value.__module__ == module.__name__:
                found[keyword] = value
    return found
