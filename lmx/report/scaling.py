"""The page of a scaling law: losses by budget and size, the law's lines, and what it predicted."""

from collections.abc import Sequence

import numpy as np

from lmx.report.charts import Line, line_chart
from lmx.report.page import Html, number, page, text
from lmx.scoring.scaling import Law, Trained, Valley

POINTS = 40  # of each line of the law


def scaling_page(
    runs: Sequence[Trained], law: Law, valleys: Sequence[Valley], measured: Trained, predicted: float
) -> Html:
    """Returns the page.

    Args:
        runs: those that the law was fitted to.
        measured: the run that it was not fitted to.
        predicted: the loss that the law gave for it.
    """
    difference = measured.loss - predicted
    head = (
        f"<h1>Scaling law</h1><p>{text(f'predicted {predicted:.4f}, measured {measured.loss:.4f} nats a token')}: "
        f"{text(f'{difference:+.4f}')}</p>"
    )
    equation = (
        f"L(N, D) = {law.floor:.3f} + {law.a:.4g} / N^{law.alpha:.3f} + {law.b:.4g} / D^{law.beta:.3f}; "
        f"N are parameters, D training tokens, and C = 6 N D FLOPs"
    )
    charts = []
    for flops in sorted(valley.flops for valley in valleys):
        mine = sorted((run.parameters, run.loss) for run in runs if _budget(run, valleys) == flops)
        charts.append(_chart(mine, law, flops, title=f"{flops:.1g} FLOPs", label="trained"))
    larger = [(measured.parameters, measured.loss)]
    charts.append(_chart(larger, law, measured.flops, title=f"{measured.flops:.1g} FLOPs", label="trained afterwards"))
    rows = "".join(
        f"<tr><td>{text(f'{run.flops:.2e}')}<td>{text(number(run.parameters))}<td>{text(number(run.tokens))}"
        f"<td>{text(f'{run.loss:.4f}')}<td>{text(f'{law.loss(run.parameters, run.tokens):.4f}')}"
        for run in (*runs, measured)
    )
    table = (
        "<table><thead><tr><th>FLOPs<th>parameters<th>tokens<th>measured<th>by the law</thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    return page("Scaling law", Html(head), Html(f"<p>{text(equation)}</p>"), *charts, Html(table))


def _chart(points: Sequence[tuple[float, float]], law: Law, flops: float, *, title: str, label: str) -> Html:
    """Returns a chart of the losses of one budget by size, and of the law's line through the same sizes."""
    smallest, largest = points[0][0], points[-1][0]
    if len(points) == 1:
        smallest, largest = smallest / 3, largest * 3
    sizes = np.geomspace(smallest, largest, POINTS)
    curve = [(float(size) / 1000, law.loss(float(size), flops / 6 / float(size))) for size in sizes]
    trained = [(size / 1000, loss) for size, loss in points]
    lines = [Line(label=label, points=trained, dots=True), Line(label="law", points=curve)]
    return line_chart(lines, title=f"Loss by size, {title}", x_label="thousand parameters")


def _budget(run: Trained, valleys: Sequence[Valley]) -> float:
    """Returns the budget that a run belongs to: updates are whole, so that its FLOPs differ a little."""
    return min((valley.flops for valley in valleys), key=lambda flops: abs(np.log(flops / run.flops)))
