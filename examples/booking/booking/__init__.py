"""The booking example's own code: what its flows call as ``calendar.*``."""
