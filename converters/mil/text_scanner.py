"""The words of MIL text, one at a time, with the place each stands at.

A compiled model's text may hold megabytes of numbers, so nothing is split up in advance, and arrays of numbers are
taken as a whole.
"""

from __future__ import annotations

import re

from converters.mil.errors import ProgramError

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<name>[A-Za-z_][A-Za-z0-9_@.]*)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+(?:\.[0-9a-fA-F]*)?(?:[pP][+-]?\d+)?
                  |\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|inf\b|nan\b))
    | (?P<sign>->|\.\.\.|[()\[\]{}<>,;=?])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_GAP = re.compile(r"\s*")
_BRACKET = re.compile(r"[\[\]]")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}

END = "the end of the file"


class Scanner:
    """Reads the words of one text.

    Attributes:
        kind: of the word ahead: `name`, `string`, `number`, `sign` or `end`.
        word: the word ahead, as it is written.
    """

    def __init__(self, text: str, source: str) -> None:
        """Stands before the first word.

        Args:
            text: the whole text.
            source: its file, for messages.

        Raises:
            ProgramError: the text begins with something that is no word.
        """
        self._text = text
        self._source = source
        self._start = self._end = 0
        self.kind = self.word = ""
        self._advance()

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._end)
        if found is None or found.lastgroup is None:
            rest = self._text[self._end :]
            self._start = self._end + len(rest) - len(rest.lstrip())
            raise self.fail(f"{self._text[self._start]!r} cannot stand here")
        self.kind = found.lastgroup
        self.word = found[self.kind]
        self._start, self._end = found.span(self.kind)

    def fail(self, message: str) -> ProgramError:
        """An error that says where the word ahead stands; to be raised by the caller."""
        line = self._text.count("\n", 0, self._start) + 1
        column = self._start - (self._text.rfind("\n", 0, self._start) + 1) + 1
        return ProgramError(f"{self._source}:{line}:{column}: {message}")

    def described(self) -> str:
        """The word ahead, for messages."""
        return END if self.kind == "end" else repr(self.word[:40])

    def take(self) -> str:
        """The word ahead, which is passed."""
        word = self.word
        self._advance()
        return word

    def at(self, word: str) -> bool:
        """Whether `word` stands ahead; strings are never meant."""
        return self.word == word and self.kind != "string"

    def followed_by(self, signs: str) -> bool:
        """Whether the word after the one ahead begins with one of `signs`."""
        gap = _GAP.match(self._text, self._end)
        assert gap is not None  # it may be empty
        return self._text[gap.end() : gap.end() + 1] in tuple(signs)

    def passed(self, word: str) -> bool:
        """Passes `word` if it stands ahead; whether it did."""
        if not self.at(word):
            return False
        self._advance()
        return True

    def expect(self, word: str) -> None:
        """Passes `word`.

        Raises:
            ProgramError: something else stands ahead.
        """
        if not self.passed(word):
            raise self.fail(f"expected {word!r}, found {self.described()}")

    def name(self, what: str) -> str:
        """Passes a name.

        Raises:
            ProgramError: none stands ahead.
        """
        if self.kind != "name":
            raise self.fail(f"expected {what}, found {self.described()}")
        return self.take()

    def string(self) -> str:
        """Passes a string; its content.

        Raises:
            ProgramError: none stands ahead.
        """
        if self.kind != "string":
            raise self.fail(f"expected a string, found {self.described()}")
        return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), self.take()[1:-1])

    def bracketed(self) -> tuple[str, int]:
        """Passes everything from the `[` ahead to its `]`.

        Returns:
            What is between them, and how deep brackets were nested.

        Raises:
            ProgramError: no bracket stands ahead, or it is never closed.
        """
        if not self.at("["):
            raise self.fail(f"expected '[', found {self.described()}")
        depth = deepest = 0
        for bracket in _BRACKET.finditer(self._text, self._start):
            depth += 1 if bracket[0] == "[" else -1
            deepest = max(deepest, depth)
            if depth == 0:
                inner = self._text[self._start + 1 : bracket.start()]
                self._end = bracket.end()
                self._advance()
                return inner, deepest
        raise self.fail("this '[' is never closed")
