"""What a running proxy knows: its latest requests, its servers, its profile, and what it says of its own gain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from proxy.admin_address import AdminAddress

MOST = 20_000
OFF_BY = 0.25  # measured over modelled joules, beyond which the profile is not this server's


class NotTold(Exception):
    """The proxy cannot be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Live:
    """What it told.

    Attributes:
        ledger: the latest requests of one group of servers, in a file as the ledger writes them.
        group: that these are of.
        servers: how many there are.
        slots: of each; None is no limit, or not all alike.
        profile: a built-in name, or a path on the proxy's machine.
        shadow: the answer of `/shadow`.
    """

    ledger: Path
    group: str
    servers: int
    slots: int | None
    profile: str
    shadow: Mapping[str, Any]
    requests: int
    elsewhere: int  # requests of other groups


def ask(at: AdminAddress, group: str | None, folder: Path) -> Live:
    """Ask a proxy's admin port.

    Raises:
        NotTold: it does not answer, or has no such group, or no request yet.
    """
    url = at.url
    try:
        with httpx.Client(base_url=url, headers=at.headers, verify=at.verify, timeout=60, trust_env=False) as client:
            status, shadow = (_json(client, path) for path in ("/status", "/shadow"))
            answer = client.get("/ledger", params={"limit": MOST})
            answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise NotTold(f"{url} said {error.response.status_code}: {error.response.text[:300]}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NotTold(f"{url}: {error}; --admin takes the admin port's URL, http://127.0.0.1:9464 as it comes") from error
    servers: Sequence[Mapping[str, Any]] = status["servers"]
    known = list(dict.fromkeys(server["group"] for server in servers))
    chosen = group or known[0]
    if chosen not in known:
        raise NotTold(f"{url} has no group {chosen!r}; it has {', '.join(known)}")
    ours = {server["name"]: server["slots"] for server in servers if server["group"] == chosen}
    lines = answer.text.splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["server"] in ours]
    if not kept:
        raise NotTold(f"{url} has no request yet that left to a server of group {chosen!r}")
    ledger = folder / "requests.jsonl"
    ledger.write_text("".join(kept))
    slots = set(ours.values())
    return Live(
        ledger,
        chosen,
        len(ours),
        slots.pop() if len(slots) == 1 else None,
        shadow["profile"]["from"],
        shadow,
        len(kept),
        len(lines) - len(kept),
    )


def _json(client: httpx.Client, path: str) -> Any:
    answer = client.get(path)
    answer.raise_for_status()
    return answer.json()


def facts(live: Live) -> tuple[str, ...]:
    """What the proxy says of itself."""
    gain = live.shadow["gain"]
    if gain is None or not gain["requests"]:
        return ("The proxy has compared no request with straight through yet.",)
    share = gain["saved_share_of_active"]
    by = ", ".join(f"{policy} {joules:.0f} J" for policy, joules in gain["by_policy"].items())
    told = f"Live gain so far (modelled): {gain['saved_j']:.0f} J in {gain['requests']} requests"
    return (told + (f", {share:.1%} of their active joules" if share is not None else "") + f"; {by}.",)


def doubts(live: Live) -> tuple[str, ...]:
    """Why the profile may be wrong here."""
    found = []
    check = live.shadow["model_check"]
    if check is not None and abs(check["ratio"] - 1) > OFF_BY:
        found.append(
            f"measured joules ({', '.join(check['source'])}) are {check['ratio']:.2f} times what the profile says of the same"
            " requests: it is not this server's"
        )
    if live.elsewhere:
        found.append(f"{live.elsewhere} requests of other groups are left out (`--group`)")
    return tuple(found)
