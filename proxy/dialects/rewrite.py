"""Changes single members of a JSON object in its bytes, and leaves every other byte as it was."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from dataclasses import dataclass, replace

# numbers stay texts: nothing here needs them, and Python refuses to read one of 5,000 digits
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the outermost object: its name, what it holds (numbers as texts), and where that is written."""

    key: str
    value: object
    start: int  # of the value
    end: int


@dataclass(frozen=True, slots=True)
class Object:
    """The text of one JSON object, in which places are found and cut."""

    text: str
    members: tuple[Member, ...]
    free: int  # where one more member can be written: behind the last one, so that the others stay where they are
    prefix: bytes = b""

    def last(self, key: str) -> Member | None:
        """The one that counts where a key stands twice, to every parser that takes it at all."""
        return next((member for member in reversed(self.members) if member.key == key), None)

    def has_duplicates(self) -> bool:
        return len({member.key for member in self.members}) < len(self.members)

    def with_values(self, key: str, value: str) -> Object:
        """Each value of a key replaced by a JSON text; the member is added at the end where there is none."""
        spans = [(member.start, member.end) for member in self.members if member.key == key]
        if not spans:
            return self.with_text(self.free, self.free, f"{',' if self.members else ''}{json.dumps(key)}:{value}")
        text = self.text
        for start, end in reversed(spans):
            text = text[:start] + value + text[end:]
        return replace(self, text=text, members=())

    def with_text(self, start: int, end: int, text: str) -> Object:
        return replace(self, text=self.text[:start] + text + self.text[end:], members=())

    def encoded(self) -> bytes:
        return self.prefix + self.text.encode()


def read_object(body: bytes) -> Object | None:
    """The object that a body is; None where it is something else, or nothing that can be read."""
    prefix = BOM_UTF8 if body.startswith(BOM_UTF8) else b""
    try:
        return _scan(body[len(prefix) :].decode(), prefix)
    except (ValueError, IndexError, RecursionError):
        return None


def _scan(text: str, prefix: bytes) -> Object | None:
    """Walks over the outermost members with the standard library's decoder, which tells where each value ends.

    Raises:
        ValueError, IndexError: the text is no JSON.
    """
    at = opening = _skip(text, 0)
    if text[at] != "{":
        return None
    members: list[Member] = []
    at = _skip(text, at + 1)
    while text[at] != "}" or members:  # a comma is followed by a member
        if text[at] != '"':
            return None
        member = _member(text, at)
        if member is None:
            return None
        members.append(member)
        at = _skip(text, member.end)
        if text[at] == "}":
            break
        if text[at] != ",":
            return None
        at = _skip(text, at + 1)
    free = members[-1].end if members else opening + 1
    return Object(text, tuple(members), free, prefix) if _skip(text, at + 1) == len(text) else None


def _member(text: str, at: int) -> Member | None:
    key, at = _DECODER.raw_decode(text, at)
    at = _skip(text, at)
    if text[at] != ":":
        return None
    start = _skip(text, at + 1)
    value, end = _DECODER.raw_decode(text, start)
    return Member(key, value, start, end)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def set_model(body: bytes, name: str) -> bytes:
    """The same body that asks for another model; the body itself where it is no JSON object."""
    found = read_object(body)
    return body if found is None else found.with_values("model", json.dumps(name)).encoded()
