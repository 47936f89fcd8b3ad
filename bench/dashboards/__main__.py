"""Writes the dashboards: `python -m bench.dashboards`; `--draw DIR` also draws them from a Paceline that runs for a minute."""

from __future__ import annotations

from pathlib import Path

import click

from bench.dashboards.files import FOLDER, dashboards


@click.command()
@click.option("--draw", type=click.Path(path_type=Path), help="Folder for a picture of each, by matplotlib: not Grafana's.")
@click.option("--prometheus", default="prometheus", show_default=True, help="The program, for --draw.")
def main(draw: Path | None, prometheus: str) -> None:
    """Write charts/paceline/dashboards/*.json from bench/dashboards."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in dashboards().items():
        (FOLDER / f"{name}.json").write_text(text)
        click.echo(f"wrote {FOLDER.name}/{name}.json")
    if draw is not None:
        from bench.dashboards.sheet import draw_all  # matplotlib

        draw_all(draw, prometheus)


if __name__ == "__main__":
    main()
