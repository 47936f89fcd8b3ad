"""The servers behind the proxies: what each works on, how full it is packed, whether it is well, asleep, and what it costs."""

from __future__ import annotations

from bench.dashboards import energy
from bench.dashboards.frame import framed
from bench.dashboards.panels import (
    GREEN,
    GREY,
    RED,
    YELLOW,
    Panel,
    Query,
    figure,
    rows,
    series,
    states,
    worse_above,
    worse_below,
)
from bench.dashboards.queries import SERVER, of, over, quantile, rate, total
from bench.dashboards.server_costs import NAME, OF_SERVER, costs
from telemetry import names
from telemetry.names import exported

OF_GROUP = 'paceline_server_group=~"$group",server_address=~"$server"'
GROUPED = f"paceline_server_group, {SERVER}"
CIRCUITS = {0: ("closed", GREEN), 1: ("half open", YELLOW), 2: ("open", RED)}
STATES = {0: ("awake", GREEN), 1: ("falling asleep", YELLOW), 2: ("asleep", GREY), 3: ("waking", YELLOW)}


def fleet() -> str:
    """The dashboard's JSON."""
    by_name = {"": _well(), "Load and packing": _load(), "Health and sleep": _health(), "What each server costs": costs()}
    variables = {
        "group": (exported(names.IN_FLIGHT), "paceline_server_group"),
        "server": (exported(names.IN_FLIGHT), "server_address"),
    }
    return framed(
        "fleet", "Each server: in flight, packed how full, well or not, awake or not, and its joules.", by_name, variables
    )


def _with_group(expr: str) -> str:
    """Joules and latencies are told by server alone: the group, so that they are on its row."""
    group = f"0 * max by ({GROUPED}) ({of(names.IN_FLIGHT, OF_GROUP)}) + 1"
    return f"({expr}) * on ({SERVER}) group_left (paceline_server_group) ({group})"


def _circuit(state: str) -> str:
    return of(names.SERVER_CIRCUIT, f'{OF_GROUP},paceline_circuit="{state}"')


def _numbered(name: names.Name, label: str, words: tuple[str, ...]) -> str:
    """A gauge that is 1 for one of several words, as that word's place."""
    where = [f'{OF_GROUP},{label}="{word}"' for word in words]
    parts = (f"{place} * {of(name, found)}" for place, found in enumerate(where))
    return f"max by ({GROUPED}) (" + " or ".join(parts) + ")"


def _well() -> list[Panel]:
    left_alone = f"sum(max by ({GROUPED}) ({_circuit('open')}))"
    awake = f"""sum(max by ({GROUPED}) ({of(names.SERVER_STATE, f'{OF_GROUP},paceline_state="awake"')}))"""
    every = f"count(max by ({GROUPED}) ({_circuit('closed')}))"
    in_flight, slots = total(names.IN_FLIGHT, where=OF_GROUP), f"sum(max by ({GROUPED}) ({of(names.SERVER_SLOTS, OF_GROUP)}))"
    return [
        figure(
            "Servers that work",
            "Share of servers that are not left alone: their circuit is closed, or half open and waits for its next request.",
            "percentunit",
            Query(f"1 - {left_alone} / {every}"),
            steps=worse_below(1, 0.5),
            decimals=0,
        ),
        figure("Servers", "Known to the chosen proxies, in the chosen groups.", "short", Query(every)),
        figure("Awake", "Servers that can work at once.", "short", Query(awake)),
        figure("In flight", "Sequences that servers work on now.", "short", Query(in_flight), spark=True),
        figure(
            "Slots in use",
            "In flight over slots, where slots are known: configured, or as the server tells.",
            "percentunit",
            Query(over(in_flight, slots)),
            steps=worse_above(0.8, 0.95),
            decimals=0,
            empty="no slots known",
        ),
        figure(
            "Retries",
            "Requests a second that waited for a server once more: unreachable, or busy.",
            "reqps",
            Query(f"{rate(names.RETRIES)} or vector(0)"),
            steps=worse_above(0.1, 1),
            decimals=2,
        ),
    ]


def _load() -> list[Panel]:
    return [
        series(
            "In flight, by server",
            "Sequences. Packed: one line high, the others at zero; spread: all alike.",
            "short",
            Query(total(names.IN_FLIGHT, GROUPED, OF_GROUP), NAME),
            by="server.port",
        ),
        series(
            "Packing: share of slots in use, by server",
            "In flight over slots, where slots are known.",
            "percentunit",
            Query(
                over(total(names.IN_FLIGHT, GROUPED, OF_GROUP), f"max by ({GROUPED}) ({of(names.SERVER_SLOTS, OF_GROUP)})"),
                NAME,
            ),
            steps=worse_above(0.8, 0.95),
            by="server.port",
        ),
        series(
            "Requests, by server",
            "That ended, a second.",
            "reqps",
            Query(rate(names.DURATION, SERVER, f'{OF_SERVER},server_address!=""', "count"), NAME),
            stacked=True,
            by="server.port",
        ),
        rows(
            "Servers",
            "One row each, as it is now; joules and requests over the latest minutes. J/request is net of idle.",
            {
                "in flight": (total(names.IN_FLIGHT, GROUPED, OF_GROUP), "short"),
                "slots": (f"max by ({GROUPED}) ({of(names.SERVER_SLOTS, OF_GROUP)})", "short"),
                "circuit closed": (f"max by ({GROUPED}) ({_circuit('closed')})", "bool_yes_no"),
                "awake": (
                    f"""max by ({GROUPED}) ({of(names.SERVER_STATE, f'{OF_GROUP},paceline_state="awake"')})""",
                    "bool_yes_no",
                ),
                "requests/s": (_with_group(rate(names.REQUEST_ENERGY, SERVER, OF_SERVER, "count")), "reqps"),
                "J/request, net": (_with_group(energy.net_per_request(SERVER, OF_SERVER)), "joule"),
                "first token p95": (_with_group(quantile(0.95, names.FIRST_TOKEN, SERVER, OF_SERVER)), "s"),
            },
            {"paceline_server_group": "group", "server_address": "server", "server_port": "port"},
        ),
    ]


def _health() -> list[Panel]:
    failed = rate(names.DURATION, f"{SERVER}, error_type", f'{OF_SERVER},error_type!="",server_address!=""', "count")
    return [
        states(
            "Circuits",
            "open: it failed several times in a row and is left alone; half open: one request at a time tries it.",
            Query(_numbered(names.SERVER_CIRCUIT, "paceline_circuit", names.CIRCUITS), NAME),
            CIRCUITS,
        ),
        states(
            "Sleep",
            "Whether a server can work at once. Only the placement sleepy sends servers to sleep.",
            Query(_numbered(names.SERVER_STATE, "paceline_state", ("awake", "falling_asleep", "asleep", "waking")), NAME),
            STATES,
        ),
        series(
            "Errors, by server",
            "Requests that went to a server and did not end well, by error.type.",
            "reqps",
            Query(failed, NAME + " {{error_type}}"),
            by="server.port",
        ),
        series(
            "Retries, by reason",
            "unreachable: no connection; busy: the server said so, and was waited for.",
            "reqps",
            Query(rate(names.RETRIES, "paceline_retry_reason"), "{{paceline_retry_reason}}"),
            stacked=True,
        ),
        series(
            "Configuration in force",
            "How many each proxy has had since its start, by digest: one line each, if all replicas run the same.",
            "short",
            Query(
                f"max by (instance, paceline_config_digest) ({of(names.CONFIG_VERSION)})",
                "{{instance}} {{paceline_config_digest}}",
            ),
        ),
    ]
