"""What replicas share through Redis: who is there, who leads, what time it is, and what is known of each experiment.

The only importer of redis. Keys, each forgotten after `keep_s` without a write, `P` the prefix and `NAME` an experiment's:

    P:epoch            set by whoever finds none: another value means that Redis has lost what it had
    P:leader           the lease of the replica that leads
    P:replicas         hash of `replicas.Presence`, by replica
    P:experiments      set of names
    P:version:NAME     counts the changes of the three below, and guards them: read and changed as one (WATCH)
    P:state:NAME       the state, and how often it was changed
    P:parts:NAME       hash of parts, by block and replica
    P:log:NAME         hash of log lines, by what they say

Nothing here is tried twice in a row and nothing waits for longer than `timeout_s` an answer; whoever calls tries again. All of
it blocks, and is for a thread of its own: what it reads can be long, and the event loop has requests to serve.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError, WatchError
from redis.retry import Retry

from proxy.config import Shared
from proxy.replicas import Known, Presence


class SharedUnavailable(OSError):
    """Redis cannot be had now, or says no; the message says why."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one look at Redis told."""

    epoch: str
    replicas: Mapping[str, Presence]
    versions: Mapping[str, int]
    taken_by: str | None  # another process that has this replica's name
    answered: Answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What time it is by Redis, seconds since the epoch, asked and answered at these monotonic instants of ours."""

    unix_s: float
    asked_s: float
    answered_s: float


class Link:
    """One replica's connection to Redis."""

    def __init__(
        self, settings: Shared, replica: str, password: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is asked yet; Redis need not run.

        Args:
            settings: with a url.
            replica: this one's name.
            password: Redis's; empty: it wants none.
            clock: monotonic seconds.
        """
        assert settings.url is not None
        tls = {} if not settings.url.startswith("rediss://") else _tls(settings)
        self._redis: Any = Redis.from_url(  # its annotations differ from version to version
            settings.url,
            username=settings.username,
            password=password or None,
            decode_responses=True,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
            **tls,
        )
        self.settings, self.replica, self.clock, self._password = settings, replica, clock, password
        self.instance = secrets.token_hex(8)
        self._lock = self._redis.lock(self._key("leader"), timeout=settings.lease_s, blocking=False, thread_local=False)
        self._first_unix_s: float | None = None
        self._holds = False
        self._leads_until = -1.0

    @property
    def holds_lease(self) -> bool:
        """Whether this one leads, for all that it can know by its own clock."""
        return self.clock() < self._leads_until

    def beat(self, known: Mapping[str, Presence]) -> Beat:
        """Say that this replica is there, try to lead, and see what is new.

        Args:
            known: who was there; Redis is told again of those that it has forgotten too early.

        Raises:
            SharedUnavailable: see there.
        """
        with self._told():
            asked_s = self.clock()
            seconds, micros = self._redis.time()
            answered = Answer(seconds + micros / 1e6, asked_s, self.clock())
            self._lease()
            epoch, replicas, taken_by = self._greet(answered.unix_s, known)
            return Beat(epoch, replicas, self._versions(), taken_by, answered)

    def _greet(self, now_unix_s: float, known: Mapping[str, Presence]) -> tuple[str, Mapping[str, Presence], str | None]:
        key, keep_ms = self._key("replicas"), round(self.settings.keep_s * 1000)
        before = Presence.of(self._redis.hget(key, self.replica))
        taken_by = before.instance if before and self._first_unix_s and before.instance != self.instance else None
        if self._first_unix_s is None or (before and before.first_unix_s < self._first_unix_s):
            self._first_unix_s = before.first_unix_s if before else now_unix_s
        mine = Presence(self.instance, self._first_unix_s, now_unix_s)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._key("epoch"), secrets.token_hex(8), nx=True, px=keep_ms)
            pipe.pexpire(self._key("epoch"), keep_ms)
            pipe.get(self._key("epoch"))
            pipe.hset(key, self.replica, mine.as_text())
            pipe.pexpire(key, keep_ms)
            pipe.hgetall(key)
            answers = pipe.execute()
        everybody = {name: presence for name, text in answers[5].items() if (presence := Presence.of(text)) is not None}
        lasting = {name: one for name, one in {**known, **everybody}.items() if self._is_kept(one, now_unix_s)}
        if lost := {name: one.as_text() for name, one in lasting.items() if name not in everybody}:
            self._redis.hset(key, mapping=lost)
        if old := [name for name in everybody if name not in lasting]:
            self._redis.hdel(key, *old)
        return answers[2], lasting, taken_by

    def _is_kept(self, presence: Presence, now_unix_s: float) -> bool:
        return now_unix_s - presence.seen_unix_s <= self.settings.keep_s

    def _versions(self) -> dict[str, int]:
        names = sorted(self._redis.smembers(self._key("experiments")))
        if not names:
            return {}
        versions = self._redis.mget([self._key("version", name) for name in names])
        if gone := [name for name, version in zip(names, versions, strict=True) if version is None]:
            self._redis.srem(self._key("experiments"), *gone)
        return {name: int(version) for name, version in zip(names, versions, strict=True) if version is not None}

    def _lease(self) -> None:
        """Lead, or go on leading. What is held is reckoned from before it was asked for, so nobody leads for too long."""
        asked_s = self.clock()
        try:
            if self._holds:
                self._lock.reacquire()
            else:
                self._holds = self._lock.acquire(token=self.instance)
        except LockError:
            self._holds = False
        self._leads_until = asked_s + self.settings.lease_s if self._holds else -1.0

    def exchange(self, name: str, ours: Known) -> tuple[Known, int]:
        """Bring together what Redis and this replica know of an experiment, there; told with its version.

        Raises:
            SharedUnavailable: see there; also if others are faster all the time.
        """
        with self._told(), self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(self._key("version", name))
            version = int(pipe.get(self._key("version", name)) or 0)
            theirs = self._known(pipe, name, ours)
            both = theirs.joined(ours, self.replica)
            if both == theirs:
                return both, version
            pipe.multi()
            self._write(pipe, name, theirs, both)
            answers = pipe.execute()
            return both, int(answers[0])

    def _known(self, pipe: Any, name: str, ours: Known) -> Known:
        """What Redis knows; of log lines, which do not change, only those are read that we have not."""
        there = set(pipe.hkeys(self._key("log", name)))
        new = sorted(there - set(ours.lines))
        lines = dict(zip(new, pipe.hmget(self._key("log", name), new), strict=True)) if new else {}
        told = Known.of(pipe.get(self._key("state", name)), pipe.hgetall(self._key("parts", name)), lines)
        return replace(told, lines={**told.lines, **{id: ours.lines[id] for id in there & set(ours.lines)}})

    def _write(self, pipe: Any, name: str, theirs: Known, both: Known) -> None:
        pipe.incr(self._key("version", name))
        pipe.sadd(self._key("experiments"), name)
        if both.state is not None:
            pipe.set(self._key("state", name), json.dumps({"state": both.state, "revision": both.revision}))
        parts = {
            f"{block}:{replica}": p for (block, replica), p in both.parts.items() if theirs.parts.get((block, replica)) != p
        }
        lines = {id: line for id, line in both.lines.items() if id not in theirs.lines}
        if parts:
            pipe.hset(self._key("parts", name), mapping={key: json.dumps(part.as_json()) for key, part in parts.items()})
        if lines:
            pipe.hset(self._key("log", name), mapping={id: json.dumps(line) for id, line in lines.items()})
        for kind in ("version", "state", "parts", "log"):
            pipe.pexpire(self._key(kind, name), round(self.settings.keep_s * 1000))
        pipe.pexpire(self._key("experiments"), round(self.settings.keep_s * 1000))

    def close(self) -> None:
        """Let another lead at once, and hang up."""
        with suppress(SharedUnavailable), self._told():
            if self._holds:
                self._lock.release()
        self._holds, self._leads_until = False, -1.0
        with suppress(RedisError, OSError):
            self._redis.close()

    def _key(self, kind: str, name: str = "") -> str:
        return f"{self.settings.prefix}:{kind}:{name}" if name else f"{self.settings.prefix}:{kind}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever goes wrong with Redis is one kind of trouble, and soon over. No message of it holds a password."""
        try:
            yield
        except WatchError as error:
            raise SharedUnavailable("others were faster") from error
        except (RedisError, OSError, UnicodeDecodeError) as error:
            # an old Redis repeats what it does not know, the password of a HELLO too
            words = str(error).replace(self._password, "[hidden]") if self._password else str(error)
            raise SharedUnavailable(f"{type(error).__name__}: {words}") from error


def _tls(settings: Shared) -> dict[str, Any]:
    required = "required" if settings.verify else "none"
    return {"ssl_cert_reqs": required, "ssl_check_hostname": settings.verify, "ssl_ca_certs": settings.ca_file}
