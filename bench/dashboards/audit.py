"""Whether joules can be believed: conservation, idle, what is nobody's, meters' health, how sure a request's share is."""

from __future__ import annotations

from bench.dashboards import energy
from bench.dashboards.frame import framed
from bench.dashboards.meters import meters, sureness
from bench.dashboards.panels import GREEN, RED, Panel, Query, figure, series, worse_above
from bench.dashboards.queries import GPU, RANGE, increase, of, over, rate
from telemetry import names
from telemetry.names import exported

OF_DOMAIN = 'paceline_domain=~"$domain"'
DOMAIN = "paceline_domain, energy_scope, energy_source"
DOMAIN_NAME = "{{paceline_domain}} {{energy_scope}} ({{energy_source}})"


def audit() -> str:
    """The dashboard's JSON."""
    by_name = {
        "": _believed(),
        "Where the counted joules went": _books(),
        "Meters": meters(),
        "How sure a request's joules are": sureness(),
    }
    description = (
        "Can the joules be believed? counter = requests + idle + unattributed, to the microjoule; docs/energy.md explains."
    )
    return framed("audit", description, by_name, {"domain": (exported(names.COUNTED_ENERGY), "paceline_domain")})


def _believed() -> list[Panel]:
    conserved = f"max(abs({of(names.CONSERVATION_ERROR, OF_DOMAIN)}))"
    counted = increase(names.COUNTED_ENERGY, "energy_source", OF_DOMAIN)
    return [
        figure(
            "Conservation error",
            "Counted, less requests, idle and unattributed, each added up apart. Anything but 0 is a fault of Paceline.",
            "joule",
            Query(conserved),
            steps=((None, GREEN), (1e-6, RED)),
            empty="no meter",
        ),
        figure(
            "Unattributed",
            "Share of what idle power does not explain that is nobody's, over the time that is shown. A neighbour on the card, "
            "traffic around the proxy, or a profile of another model; in quiet times only noise of idle power.",
            "percentunit",
            Query(energy.unattributed_share(window=RANGE)),
            steps=worse_above(0.05, 0.2),
            decimals=2,
            empty="no meter",
        ),
        figure(
            "Idle",
            "Share of all counted joules that devices would have drawn with nobody in flight.",
            "percentunit",
            Query(f"{increase(names.IDLE_ENERGY, where=OF_DOMAIN)} / {increase(names.COUNTED_ENERGY, where=OF_DOMAIN)}"),
            decimals=1,
            empty="no meter",
        ),
        figure(
            "Counted, by source",
            "All joules of the time that is shown. counter, power_integral and replayed were measured; the others were not.",
            "joule",
            Query(counted, "{{energy_source}}"),
            names=True,
            empty="no meter",
        ),
        figure(
            "Oldest step of a counter",
            "Counters move every 0.1 to 30 s, by their meter. One that stands still is frozen, or cannot be read.",
            "s",
            Query(f"max({of(names.METER_AGE)})"),
            steps=worse_above(30, 90),
            empty="no meter",
        ),
        figure(
            "Measured over modelled",
            "What requests were charged, over what the step model says they used: MODELLED. Far from 1, the profile is another "
            "server's: paceline calibrate makes one.",
            "none",
            Query(_charged(RANGE)),
            steps=((None, RED), (0.6, GREEN), (1.4, RED)),
            decimals=2,
        ),
    ]


def _charged(window: str) -> str:
    """Measured joules of requests over the model's; of GPUs, for the model knows no others."""
    where = f"{OF_DOMAIN},{GPU}"
    counted, idle, nobodys = (
        increase(name, where=where, window=window)
        for name in (names.COUNTED_ENERGY, names.IDLE_ENERGY, names.UNATTRIBUTED_ENERGY)
    )
    return over(f"({counted} - {idle} - {nobodys})", increase(names.MODELLED_ENERGY, where=OF_DOMAIN, window=window))


def _books() -> list[Panel]:
    where = f"{OF_DOMAIN},{GPU}"
    counted, idle, nobodys = (
        rate(name, where=where) for name in (names.COUNTED_ENERGY, names.IDLE_ENERGY, names.UNATTRIBUTED_ENERGY)
    )
    return [
        series(
            "Counted = requests + idle + unattributed",
            "Watts of all GPUs of the domains, stacked; together they are what the meters counted.",
            "watt",
            Query(f"{counted} - {idle} - {nobodys}", "requests"),
            Query(idle, "idle"),
            Query(nobodys, "unattributed"),
            stacked=True,
        ),
        series(
            "Unattributed share, by domain",
            "Of what idle power does not explain, which in quiet times is its noise: read it under load. The alert looks at "
            "ten minutes, and not at noise.",
            "percentunit",
            Query(energy.unattributed_share("paceline_domain"), "{{paceline_domain}}"),
            steps=worse_above(0.05, 0.2),
        ),
        series(
            "Idle power, by domain",
            "Learnt from the time in which nobody was in flight; until then the profile's.",
            "watt",
            Query(rate(names.IDLE_ENERGY, DOMAIN, OF_DOMAIN), DOMAIN_NAME),
        ),
        series(
            "Conservation error, by domain",
            "Anything but 0 is a fault of Paceline.",
            "joule",
            Query(f"max by ({DOMAIN}) (abs({of(names.CONSERVATION_ERROR, OF_DOMAIN)}))", DOMAIN_NAME),
            steps=((None, GREEN), (1e-6, RED)),
        ),
        series(
            "Requests: measured, and MODELLED",
            "What requests were charged beside what the step model says that they used, GPUs only.",
            "watt",
            Query(f"{counted} - {idle} - {nobodys}", "charged"),
            Query(rate(names.MODELLED_ENERGY, where=OF_DOMAIN), "modelled"),
        ),
        series(
            "Requests whose joules became known",
            "A second, by source; with a meter, all that were answered should be here some tenths of a second later.",
            "reqps",
            Query(rate(names.REQUEST_ENERGY, "energy_source", "", "count"), "joules known ({{energy_source}})"),
            Query(rate(names.DURATION, "", 'error_type=""', "count"), "answered"),
        ),
    ]
