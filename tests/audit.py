"""Whether what is installed has known vulnerabilities, by pip-audit; says so when no advisory could be had: `make audit`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

WITHIN_S = 180
SERVICES = ("pypi", "osv")


def ask(service: str, python: str) -> Sequence[Mapping[str, Any]]:
    """What pip-audit says of each package of this environment; nothing where the service cannot be reached."""
    command = [python, "-m", "pip_audit", "--local", "--skip-editable", "--format", "json", "--vulnerability-service", service]
    try:
        done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=WITHIN_S)
        return list(json.loads(done.stdout)["dependencies"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return []


def verdict(packages: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """An exit status, and what is to be said: 0 all are clean, 1 some are not, 2 nobody knows.

    pip-audit itself says "no known vulnerabilities" of packages that it could not ask about.
    """
    asked = [package for package in packages if "skip_reason" not in package]
    if 2 * len(asked) <= len(packages):
        return 2, [f"NOT AUDITED: no advisories were to be had for {len(packages) - len(asked)} of {len(packages)} packages"]
    bad = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version'}"
        for package in asked
        for flaw in package["vulns"]
    ]
    return (1 if bad else 0), [*bad, f"{len(asked)} of {len(packages)} packages were audited, {len(bad)} flaws are known"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="not to know is a failure, too")
    strict = parser.parse_args().strict
    verdicts = [verdict(ask(SERVICES[0], sys.executable))]
    if verdicts[0][0] == 2:
        verdicts.append(verdict(ask(SERVICES[1], sys.executable)))
    status, said = min(verdicts, key=lambda one: one[0] == 2)
    print("\n".join(said), file=sys.stderr if status else sys.stdout)
    return 0 if status == 2 and not strict else status


if __name__ == "__main__":
    sys.exit(main())
