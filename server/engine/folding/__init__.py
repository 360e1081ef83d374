"""The parts of the reducer, one concern each. ``server.engine.reducer`` is the way in."""
