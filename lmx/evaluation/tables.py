"""The table of scores that every experiment ends with."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from lmx.run import Run
from lmx.scoring.records import Record


def print_record(
    run: Run, record: Record, *, title: str, baselines_are: str, notes: Sequence[str] = (), digits: int = 2
) -> None:
    """Prints one table: our scores, the published one, and how each was made; then the main score alone on a line.

    Args:
        baselines_are: what the baselines are, in a few words.
        notes: lines between the table and the main score.
        digits: of scores, behind the point.
    """
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for column in ("score", "", "95% interval", "how it was made"):
        table.add_column(column, justify="right" if column == "" else "left", overflow="fold")
    for row in record.rows:
        interval = " to ".join(f"{end:.{digits}f}" for end in row.interval or ())
        table.add_row(row.name, f"{row.score:.{digits}f}", interval, f"{row.made}\n{row.signature}")
        if row.published is not None:
            table.add_row("  published", f"{row.published:.{digits}f}", "", row.published_made)
    for name, score in record.baselines.items():
        table.add_row(name, f"{score:.{digits}f}", "", baselines_are)
    run.console.print(table)
    for note in notes:
        run.console.print(note)
    run.console.print(f"{record.rows[0].name} = {record.rows[0].score:.{digits}f}")
