"""The Rust extension of ``cel``, without the package around it.

That imports its own command line, and with it prompt_toolkit: 0.1 s and 9 MB of every start. Whoever
imports ``cel`` in the same process gets this very extension.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Final

_EXTENSION: Final = "cel.cel"


def extension() -> ModuleType:
    """Return the extension. Raises ImportError where ``cel`` is not installed, or is laid out otherwise."""
    if _EXTENSION in sys.modules:
        return sys.modules[_EXTENSION]
    package = find_spec("cel")
    spec = package and PathFinder.find_spec(_EXTENSION, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ImportError("common-expression-language lacks its extension: install it anew")
    module = sys.modules[_EXTENSION] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_EXTENSION]
        raise
    return module
