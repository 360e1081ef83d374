"""Tests of flows: conversations written down in YAML, run in memory and in virtual time.

``reader`` makes a ``Suite`` of a file, ``runner`` runs it, ``report`` and ``coverage`` tell what came of it;
``harness`` is the engine underneath, for whoever wants to test flows in Python; ``recording`` writes a live
chat down as such a file. The language is described in ``docs/reference/test-language.md``.
"""
