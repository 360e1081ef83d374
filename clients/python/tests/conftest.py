"""Lets the tests of this folder import the helpers that stand beside them, from whatever root they run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
