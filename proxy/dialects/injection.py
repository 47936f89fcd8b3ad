"""Asks engines for the counts that a client did not ask for, and takes them out of the answer again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from proxy.dialects.base import Injected
from proxy.dialects.rewrite import Object, read_object

_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DETAILS = re.compile(rb'"details":\{[^{}]*\}')


@dataclass(frozen=True, slots=True)
class UsageRules:
    """What an engine makes of `stream_options` that neither ask for usage nor forbid it.

    Attributes:
        null: it takes null for absent.
        empty: it takes an object without `include_usage` for one that does not ask.
        strict: it refuses a body in which a key stands twice.
    """

    null: bool
    empty: bool
    strict: bool = False


def include_usage(body: bytes, rules: UsageRules) -> Injected | None:
    """A chat or completion that streams, with `stream_options.include_usage`, and the extra chunk taken out again."""
    found = read_object(body)
    if found is None or not streams(found) or (rules.strict and found.has_duplicates()):
        return None
    options = found.last("stream_options")
    if options is None:
        return Injected(found.with_values("stream_options", '{"include_usage":true}').encoded(), without_usage)
    if options.value is None and rules.null:
        return Injected(found.with_text(options.start, options.end, '{"include_usage":true}').encoded(), without_usage)
    return _into(found, options.start, options.end, rules)


def _into(found: Object, start: int, end: int, rules: UsageRules) -> Injected | None:
    """With options that are there but do not ask: everything else in them stays as it is written."""
    inner = read_object(found.text[start:end].encode())
    if inner is None or (rules.strict and inner.has_duplicates()):
        return None
    asked, continuous = inner.last("include_usage"), inner.last("continuous_usage_stats")
    if continuous is not None and continuous.value not in (False, None):
        return None  # counts come in every chunk, or would begin to
    if not (rules.empty if asked is None else asked.value is False or (asked.value is None and rules.null)):
        return None
    changed = inner.with_values("include_usage", "true").text
    return Injected(found.with_text(start, end, changed).encoded(), without_usage)


def streams(found: Object) -> bool:
    """Whether `stream` is true and nothing that an engine would have to make true."""
    stream = found.last("stream")
    return stream is not None and stream.value is True


def without_usage(event: bytes) -> bytes:
    """Nothing for the chunk that has no choices but counts; every other event as it is."""
    if b'"usage"' not in event or not _NO_CHOICES.search(event) or not event.startswith(b"data:"):
        return event
    try:
        chunk = json.loads(event[5:])
    except (ValueError, RecursionError):
        return event
    told = isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
    return b"" if told else event


def tgi_details(body: bytes, *, only_if_streamed: bool) -> Injected | None:
    """TGI's `details`, which make the last event of a stream tell the prompt's length.

    Absent parameters mean sampling and empty ones do not, so what is added in their place says so. Whatever TGI would
    refuse is left for it to refuse.
    """
    found = read_object(body)
    if found is None or found.has_duplicates() or (only_if_streamed and not streams(found)):
        return None
    parameters = found.last("parameters")
    if parameters is None:
        added = found.with_values("parameters", '{"details":true,"do_sample":true}')
        return Injected(added.encoded(), without_details)
    inner = read_object(found.text[parameters.start : parameters.end].encode())
    if inner is None or inner.has_duplicates():
        return None
    details = inner.last("details")
    if details is not None and details.value is not False:
        return None
    changed = found.with_text(parameters.start, parameters.end, inner.with_values("details", "true").text)
    return Injected(changed.encoded(), without_details)


def without_details(event: bytes) -> bytes:
    """The last event as it is when nobody asks for details; within a text quotes are escaped, so no text is touched."""
    return _DETAILS.sub(b'"details":null', event) if b'"details":{' in event else event
