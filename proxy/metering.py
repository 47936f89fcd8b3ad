"""Which meters a configuration asks for, and which servers the devices of each of them serve."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from proxy.config import Config, Domain
from proxy.devices import Found, devices_of
from proxy.energy import Energy, MeteredDomain
from proxy.keys import key_of
from telemetry.amd import AmdMeter
from telemetry.cost import StepModel
from telemetry.meter import Meter, MeterUnavailable
from telemetry.modelled import ModelledMeter
from telemetry.monitor import Monitor
from telemetry.nvml import NvmlMeter
from telemetry.prometheus import PrometheusMeter
from telemetry.rapl import RaplMeter
from telemetry.remote import RemoteMeter
from telemetry.replay import ReplayMeter
from telemetry.simulated import SimulatedMeter
from telemetry.snapshot import Scope

log = logging.getLogger("paceline.energy")

LOCAL = ("auto", "nvml", "amd")  # meters of this machine's GPUs


def create_energy(config: Config, model: StepModel, environ: Mapping[str, str]) -> Energy | None:
    """The domains that the configuration asks for; None, said once in the log, where no meter can be had."""
    metering = _Metering(config, model, environ)
    try:
        domains = list(metering.domains())
    except MeterUnavailable as error:
        log.warning("energy is unknown: %s (simulated engines are metered by --meter simulated)", error)
        return None
    return Energy([*domains, *metering.host(domains)], serves_all=metering.serves_all) if domains else None


class _Metering:
    """Puts the domains together."""

    def __init__(self, config: Config, model: StepModel, environ: Mapping[str, str]) -> None:
        self._energy, self._model, self._environ = config.energy, model, environ
        self._urls = tuple(upstream.url for upstream in config.upstreams)
        self.serves_all = False

    def domains(self) -> Iterator[MeteredDomain]:
        """One for each set of devices.

        Raises:
            MeterUnavailable: a device cannot be read.
        """
        if self._energy.meter == "none":
            return
        for domain in self._energy.domains or self._found():
            if self._energy.meter == "modelled":
                yield self._modelled(domain)
            else:
                yield self._domain(domain, self._meter(domain))

    def host(self, domains: Sequence[MeteredDomain]) -> Iterator[MeteredDomain]:
        """CPUs and memory of this machine, beside its GPUs."""
        energy = self._energy
        if energy.host == "none" or energy.meter not in LOCAL:
            return
        try:
            meter = RaplMeter()
        except MeterUnavailable as error:
            (log.warning if energy.host == "rapl" else log.info)("the host's energy is unknown: %s", error)
            return
        upstreams = tuple(url for domain in domains for url in domain.upstreams)
        yield self._domain(Domain(upstreams=upstreams), meter)

    def _domain(self, domain: Domain, meter: Meter) -> MeteredDomain:
        monitor = Monitor.of(meter, self._energy.poll_s)
        return MeteredDomain(", ".join(domain.upstreams), domain.upstreams, monitor, self._model)

    def _modelled(self, domain: Domain) -> MeteredDomain:
        name = ", ".join(domain.upstreams)
        log.warning("nobody measures %s: its joules are the step model's, and marked as modelled", name)

        def joules(start_s: float, end_s: float) -> float:
            return metered.account(Scope.GPU).modelled_j(start_s, end_s)

        metered = self._domain(domain, ModelledMeter(f"model:{name}", joules))
        return metered

    def _found(self) -> Sequence[Domain]:
        """What is not configured: a simulated engine is a device, a server runs on the GPUs of its process."""
        energy, urls = self._energy, self._urls
        if energy.meter in ("simulated", "modelled"):
            return [Domain(devices=(url,), upstreams=(url,)) for url in urls]
        if energy.meter in ("auto", "nvml") and (together := _together(devices_of(urls))):
            return together
        self.serves_all = True
        if len(urls) > 1:
            log.warning("all devices and all %d upstreams are one energy domain; energy.domains tells them apart", len(urls))
        return [Domain(upstreams=urls)]

    def _meter(self, domain: Domain) -> Meter:
        energy, devices = self._energy, domain.devices or None
        match energy.meter:
            case "simulated":
                return SimulatedMeter(domain.devices or domain.upstreams)
            case "amd":
                return AmdMeter(devices)
            case "rapl":
                return RaplMeter(devices)
            case "replay":
                return ReplayMeter(Path(energy.file or ""), devices)
            case "prometheus" | "paceline":
                meter = PrometheusMeter if energy.meter == "prometheus" else RemoteMeter
                ca_file = Path(energy.ca_file) if energy.ca_file else None
                return meter(domain.url or energy.url or "", devices, key=key_of(energy, self._environ), ca_file=ca_file)
            case _:
                return NvmlMeter(devices)


def _together(found: Mapping[str, Found]) -> list[Domain]:
    """Servers that share a GPU are one domain; nothing unless every server's GPUs are known."""
    if not all(of.devices for of in found.values()):
        for url, of in found.items():
            if not of.devices:
                log.info("the GPUs of %s are not known: %s", url, of.reason)
        return []
    domains: list[tuple[set[str], list[str]]] = []
    for url, of in found.items():
        devices, urls = set(of.devices), [url]
        for other in [domain for domain in domains if domain[0] & devices]:
            domains.remove(other)
            devices, urls = devices | other[0], [*other[1], *urls]
        domains.append((devices, urls))
    for devices, urls in domains:
        log.info("energy domain: %s on %s", ", ".join(urls), ", ".join(sorted(devices)))
    return [Domain(devices=tuple(sorted(devices)), upstreams=tuple(urls)) for devices, urls in domains]
