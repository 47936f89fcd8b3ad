"""What the chart asks of a running Paceline, asked of one that runs with the chart's own configuration."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path

import httpx

from bench.processes import engine, running
from tests.charts.helm import Tree, example
from tests.charts.mounted import authority, on_this_disk


def here(config: Path, server: str) -> Path:
    """The same configuration on free ports of this machine, in front of a server that is here; nobody waits for its end."""
    tree = json.loads(config.read_text())
    tree["upstreams"][0]["url"] = server
    config.write_text(json.dumps({**tree, "port": 0, "admin_port": 0, "drain": {}}))
    return config


async def test_probes_scrape_and_helm_test_with_tls_and_token(tmp_path: Path) -> None:
    rendered = example("tls-token")
    config = on_this_disk(rendered.config(), tmp_path)
    token = (tmp_path / "secrets/paceline-admin/token").read_text().strip()
    trusted = ssl.create_default_context()
    authority().configure_trust(trusted)
    (container,) = rendered.pod("proxy")["containers"]
    (endpoint,) = rendered.one("ServiceMonitor")["spec"]["endpoints"]
    async with engine() as server, running("serve", "--config", str(here(config, server))) as child:
        ready = await child.ready(r"paceline ready: data https://([\d.:]+) admin https://([\d.:]+)")
        data, admin = (address.replace("0.0.0.0", "127.0.0.1") for address in ready.groups())
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
            for probe in ("startup", "liveness", "readiness"):
                await probed(client, container[f"{probe}Probe"]["httpGet"], admin)
            scraped = f"{endpoint['scheme']}://{admin}{endpoint['path']}"
            assert (await client.get(scraped)).status_code == 401
            shown = {"authorization": f"{endpoint['authorization']['type']} {token}"}
            assert "paceline" in (await client.get(scraped, headers=shown)).text
        tester = next(pod for _, pod in rendered.pods() if pod.get("restartPolicy") == "Never")
        assert await status_of(tester["containers"][0], data, admin) == 0


async def probed(client: httpx.AsyncClient, get: Tree, admin: str) -> None:
    """Until it is well, as the kubelet asks again; a test's timeout is the bound."""
    url = f"{get['scheme'].lower()}://{admin}{get['path']}"
    while (await client.get(url)).status_code != 200:
        await asyncio.sleep(0.05)


async def status_of(container: Tree, data: str, admin: str) -> int:
    """The test pod's own command, with its Services' addresses replaced by ours."""
    environ = {one["name"]: one["value"] for one in container["env"]}
    environ["READY"] = environ["READY"].replace("paceline-admin:9464", admin)
    environ["DATA_HOST"], _, environ["DATA_PORT"] = data.rpartition(":")
    assert container["command"] == ["python", "-c"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", *container["args"], env={**os.environ, **environ})
    return await process.wait()
