"""The chat widget as it is built: ``widget.js``, the chat part and ``files.json``, which tells of what.

The sources are in ``clients/widget``; ``make widget`` builds them, and the same sources give the same bytes.
What is built is committed, so that a server needs no Node (docs/decisions/0043).
"""
