"""How it is logged: for people on a console, or one JSON object a line, with ids that join it to traces and the ledger."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from proxy.config import Config
from telemetry.ledger import Entry

Lookup = Callable[[str], Entry | None]
HIDDEN: list[str] = []  # keys, passwords and tokens: whoever we show one to may repeat it in an error, which is logged

CONSOLE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SUBJECTS = {"request %s": "request_id", "upstream %s": "upstream", "experiment %s": "experiment"}  # how our messages begin
KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
CHATTY = ("httpx", "httpcore", "urllib3", "uvicorn.error")  # what they say below a warning is of no use, or of whole requests


def set_up(config: Config, stream: TextIO = sys.stderr) -> Json | None:
    """Log as configured, libraries' lines and uncaught faults included; the JSON formatter, if it is one.

    Nothing but `config.log_level` changes with a reload.
    """
    formatter = Json() if config.log_format == "json" else Console(CONSOLE)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.upper())
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("paceline.requests").setLevel(logging.INFO)  # who asks for them wants them at every log_level
    if not isinstance(formatter, Json):
        return None
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda said: _uncaught(said.exc_type, said.exc_value or said.exc_type(), said.exc_traceback)
    return formatter


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("paceline").critical("a fault that nobody caught", exc_info=(kind, error, trace))


def hide(secrets: Iterable[str]) -> None:
    """These are never in a line from now on, whoever wrote it."""
    ways = {way for secret in secrets if secret for way in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])}
    HIDDEN[:] = sorted({*HIDDEN, *ways}, key=len, reverse=True)  # else what is longer would be left in part


def _without_secrets(text: str) -> str:
    for secret in HIDDEN:
        text = text.replace(secret, "[hidden]")
    return text


class Console(logging.Formatter):
    """One line a message, whatever a server or a client wrote into it, `extra` fields at its end; stacks indented below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        words = (record.message, *(f"{key}={_word(value)}" for key, value in extra(record).items() if key != "request_id"))
        record.message = " ".join(words).translate(CONTROLS)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return self.formatStack(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return "\n".join(f"  {line.translate(CONTROLS)}" for line in stack_info.split("\n"))

    def format(self, record: logging.LogRecord) -> str:
        return _without_secrets(super().format(record))


def _word(value: object) -> str:
    """A field's value; in quotes, if it would else look like several."""
    text = str(value)
    return text if text.split() == [text] and not set(text) & set('="') else json.dumps(text, ensure_ascii=False)


# what would begin a line of its own, or tell a terminal what to do
CONTROLS = {number: repr(chr(number))[1:-1] for number in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class Json(logging.Formatter):
    """One object a line: time, level, logger, message; ids where there are any; `extra` fields; the stack of an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.lookup: Lookup = lambda request_id: None  # set once there is a ledger

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= self._subject(record)
        told |= extra(record)
        if record.exc_info:
            told["stack"] = self.formatException(record.exc_info)
        elif record.stack_info:
            told["stack"] = record.stack_info
        # before it is JSON: afterwards a key may be written otherwise, and a short one would be found in numbers
        hidden = {key: _without_secrets(value) if isinstance(value, str) else value for key, value in told.items()}
        return json.dumps(hidden, default=lambda value: _without_secrets(str(value)))

    def _subject(self, record: logging.LogRecord) -> dict[str, Any]:
        """Whom a message is about, by how it begins, and a request's trace."""
        if not isinstance(record.args, tuple) or not record.args:
            return {}
        field = next((SUBJECTS[form] for form in SUBJECTS if str(record.msg).startswith(form)), None)
        if field is None:
            return {}
        subject = str(record.args[0])
        entry = self.lookup(subject) if field == "request_id" else None
        return {field: subject, **(trace_of(entry) if entry is not None else {})}


def extra(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that a message was given beside its words."""
    return {key: value for key, value in record.__dict__.items() if key not in KNOWN and value is not None}


def trace_of(entry: Entry) -> dict[str, str]:
    """Ids of a request's trace and of our span in it; before its end, of its client's trace; nothing where there is none."""
    if entry.span is not None:
        return {"trace_id": f"{entry.span[0]:032x}", "span_id": f"{entry.span[1]:016x}"}
    parts = entry.traceparent.split("-")
    return {"trace_id": parts[1]} if len(parts) >= 4 and len(parts[1]) == 32 else {}


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
