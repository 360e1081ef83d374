"""The chat page of ``parley dev``: static files, plain web standards, no build step.

``gateway/rest/page.py`` serves them. ``session.js`` is the client's half of the protocol without I/O, and
runs the golden vectors; ``connection.js`` gives it a socket, a clock and tokens; ``mirror.js`` folds events
into what is known; ``main.js`` puts them together with what is seen. A studio will take its place.
"""
