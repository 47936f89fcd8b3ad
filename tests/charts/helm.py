"""The chart as a real Helm renders it (helm-python-sdk carries Helm's own library), and its objects by kind and name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parent.parent.parent / "charts/paceline"
EXAMPLES = Path(__file__).parent / "values"
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.yaml"))
MINIMAL: dict[str, Any] = {"config": {"upstreams": ["http://vllm.models.svc:8000"]}}

Tree = dict[str, Any]


class Rendered:
    """What one set of values comes to."""

    def __init__(self, files: dict[str, str]) -> None:
        self.notes = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
        texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
        self.objects: list[Tree] = [one for text in texts for one in yaml.safe_load_all(text) if one]

    def of(self, kind: str) -> list[Tree]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str = "paceline") -> Tree:
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    def pods(self) -> list[tuple[Tree, Tree]]:
        """Labels and specification of every pod that the objects make."""
        made = [one["spec"]["template"] for one in (*self.of("Deployment"), *self.of("DaemonSet"))]
        return [(pod["metadata"]["labels"], pod["spec"]) for pod in (*made, *self.of("Pod"))]

    def pod(self, component: str) -> Tree:
        (spec,) = [spec for labels, spec in self.pods() if labels["app.kubernetes.io/component"] == component]
        return spec

    def config(self) -> str:
        text = self.one("ConfigMap")["data"]["paceline.json"]
        assert isinstance(text, str)
        return text


def render(values: Tree, path: Path = CHART) -> Rendered:
    with helm_python.Chart.load(path) as chart:
        return Rendered(chart.render(values, name="paceline", namespace="llm"))


@cache
def example(name: str) -> Rendered:
    return render(values_of(name))


def values_of(name: str) -> Tree:
    """As Helm reads them: its numbers are all floating-point."""
    tree: Tree = helm_python.chart.values_from_yaml((EXAMPLES / f"{name}.yaml").read_text())
    return tree


def selected(labels: Tree, selector: Tree) -> bool:
    return selector.items() <= labels.items()
