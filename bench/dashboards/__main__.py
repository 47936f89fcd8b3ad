"""Writes the dashboards: `python -m bench.dashboards`; `--draw DIR` draws them, of a Paceline that it runs, or of yours."""

from __future__ import annotations

from pathlib import Path

import click

from bench.dashboards.files import FOLDER, dashboards


@click.command()
@click.option("--draw", type=click.Path(path_type=Path), help="Folder for a picture of each, by matplotlib: not Grafana's.")
@click.option("--prometheus", default="prometheus", show_default=True, help="The program, for --draw.")
@click.option("--from", "url", metavar="URL", help="Draw what this Prometheus has of the last --minutes, and run nothing.")
@click.option("--minutes", type=click.FloatRange(min=1), default=15.0, show_default=True)
def main(draw: Path | None, prometheus: str, url: str | None, minutes: float) -> None:
    """Write charts/paceline/dashboards/*.json from bench/dashboards."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in dashboards().items():
        (FOLDER / f"{name}.json").write_text(text)
        click.echo(f"wrote {FOLDER.name}/{name}.json")
    if draw is not None:
        from bench.dashboards.sheet import draw_all  # matplotlib

        draw_all(draw, prometheus, url, minutes * 60)


if __name__ == "__main__":
    main()
