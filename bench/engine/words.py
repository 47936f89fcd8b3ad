"""The simulated engine's language: a token is a word, and what is said follows from who asks, so that runs can be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

_TALE = """the a row of riders close together each in turn takes wind so that all who follow spend less than they would alone
and when one tires another leads without breaking line it is an old trick that geese and cyclists share with machines held
briefly gathered then released as group energy saved here was never work but only air pushed aside twice again"""
WORDS = tuple(" " + word for word in _TALE.split())
TOKEN_IDS = tuple(range(1000, 1000 + len(WORDS)))
LOGPROBS = tuple(-(word + 1) / 64 for word in range(len(WORDS)))
assert len(WORDS) == 64, "a power of two, so that any odd stride visits every word"


def count(text: str) -> int:
    """Tokens of a prompt; a prompt has at least one."""
    return max(len(text.split()), 1)


def token_id(word: str) -> int:
    """A prompt word's id."""
    return crc32(word.encode("utf-8", "replace")) % 128_000


def spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Each word with where it starts and stops, in characters."""
    stop = 0
    for word in text.split():
        start = text.index(word, stop)
        stop = start + len(word)
        yield word, start, stop


class Speech:
    """What one sequence says: an endless walk over the words, from a start and in strides that its name decides."""

    __slots__ = ("_stride", "seed")

    def __init__(self, name: str) -> None:
        self.seed = crc32(name.encode("utf-8", "replace"))
        self._stride = self.seed >> 6 | 1

    def word(self, place: int) -> int:
        """Which of `WORDS` comes at a place, counted from zero."""
        return (self.seed + place * self._stride) & 63

    def words(self, length: int) -> list[int]:
        return [self.word(place) for place in range(length)]

    def text(self, length: int) -> str:
        return "".join(WORDS[word] for word in self.words(length))
