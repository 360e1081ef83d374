"""Private texts, and what stands for each of them wherever it shows."""

import re


class Words:
    """Replaces texts in any case they are written in.

    Lower case alone does not do: that of "İ" is two characters, and "STRASSE" is how "Straße" is shouted.
    """

    def __init__(self, unknown: str) -> None:
        """``unknown`` stands for a text that is found in a form from which nobody knows which one it is."""
        self._unknown = unknown
        self._stand_ins: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, text: str, stand_in: str) -> None:
        """Replace ``text`` by ``stand_in``; blanks around it do not count, and without them it is no word."""
        text = text.strip()
        if not text:
            return
        forms = {text.lower()} if text.isascii() else {text, text.lower(), text.upper(), text.casefold()}
        self._stand_ins |= dict.fromkeys(forms, stand_in)
        self._pattern = None

    def __contains__(self, text: str) -> bool:
        """Tell whether all of ``text`` is to be replaced."""
        return text.lower() in self._stand_ins

    def replace(self, text: str) -> str:
        """Return ``text`` without what is private."""
        if not self._stand_ins:
            return text
        if self._pattern is None:
            longest = sorted(self._stand_ins, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest)), re.IGNORECASE)
        return self._pattern.sub(lambda match: self._of(match[0]), text)

    def _of(self, found: str) -> str:
        forms = (found, found.lower(), found.casefold())
        return next((self._stand_ins[form] for form in forms if form in self._stand_ins), self._unknown)
