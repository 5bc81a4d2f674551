"""The figures, as Vega-Lite specifications without data: a page gives each of them its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from intaglio.report.colors import color_of

# Titles that a page replaces by its own.
X_TITLE, Y_TITLE = "$x", "$y"
_INK, _GREY = "#1f2328", "#57606a"
_ROWS = alt.NamedData("rows")


def specifications(variants: Sequence[str]) -> dict[str, Any]:
    """Return the specification of every figure by its name.

    Args:
        variants: names of all variants of the study, in its order.
    """
    charts = {
        "tradeoff": _tradeoff(variants),
        "curves": _curves(),
        "confusion": _confusion(),
        "operators": _operators(),
        "grid": _grid(),
    }
    return {name: chart.to_dict(validate=True) for name, chart in charts.items()}


def vega_script() -> str:
    """Return the JavaScript that draws them: Vega, Vega-Lite and Vega-Embed, which sets `vegaEmbed`."""
    # altair's version of the schema, v6.1.0, is v6_1 here.
    version = "_".join(alt.SCHEMA_VERSION.split(".")[:2])
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", vl_version=version)
    return script.replace("</script", "<\\/script")


def _tradeoff(variants: Sequence[str]) -> Any:
    colors = alt.Scale(domain=list(variants), range=[color_of(name, variants) for name in variants])
    # The page's script places names, and so needs to know where the points are: scales end where it says.
    x = alt.X("x:Q", title=X_TITLE, scale=_scale("x"), axis=alt.Axis(tickCount=8))
    base = alt.Chart(_ROWS).encode(x=x, color=alt.Color("variant:N", scale=colors, legend=None))
    tips = [
        alt.Tooltip("variant:N"),
        alt.Tooltip("value:Q", title=Y_TITLE, format=".4~g"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("x:Q", title=X_TITLE, format=".4~g"),
        alt.Tooltip("backend:N"),
    ]
    y = alt.Y("value:Q", title=Y_TITLE, scale=_scale("y"), axis=alt.Axis(tickCount=7))
    bars = base.mark_rule(strokeWidth=1.5, opacity=0.55).encode(y=alt.Y("low:Q", title=Y_TITLE), y2="high:Q")
    line = alt.Chart(_ROWS).transform_filter("datum.variant === 'float'").mark_rule(strokeDash=[4, 4], color=_GREY)
    line = line.encode(y=y)
    front = base.mark_point(size=260, strokeWidth=1.2, opacity=0.9, filled=False).encode(
        y=y, color=alt.value(_GREY), opacity=alt.condition("datum.front", alt.value(0.9), alt.value(0))
    )
    dots = base.mark_point(size=110, filled=True, opacity=1, cursor="pointer").encode(y=y, tooltip=tips)
    at = {name: alt.expr(f"datum.{name}") for name in ("align", "dx", "dy")}
    names = base.mark_text(baseline="middle", fontSize=11.5, cursor="pointer", **at).encode(y=y, text="label:N")
    return alt.layer(line, bars, front, dots, names).properties(width="container", height=380)


def _scale(axis: str) -> Any:
    return alt.Scale(zero=False, nice=False, domain=[f"${axis}_least", f"${axis}_most"])


def _curves() -> Any:
    base = alt.Chart(_ROWS).encode(
        x=alt.X("epoch:Q", title="epoch"),
        color=alt.Color("name:N", title=None, legend=alt.Legend(orient="top"), scale=alt.Scale(scheme="category10")),
    )
    y = alt.Y("value:Q", title="loss", scale=alt.Scale(zero=False))
    tips = [alt.Tooltip("name:N"), alt.Tooltip("epoch:Q", format=".3~g"), alt.Tooltip("value:Q", format=".4~g")]
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title="loss", scale=alt.Scale(zero=False)), y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.6).encode(y=y, tooltip=tips)
    return alt.layer(band, line).properties(width="container", height=240)


def _confusion() -> Any:
    base = alt.Chart(_ROWS).encode(
        x=alt.X("predicted:N", title="predicted", sort=None, axis=alt.Axis(labelLimit=140, labelAngle=-30)),
        y=alt.Y("true:N", title="true", sort=None, axis=alt.Axis(labelLimit=140)),
    )
    tips = ["true:N", "predicted:N", alt.Tooltip("count:Q", format=".4~g"), alt.Tooltip("share:Q", format=".1%")]
    blues = alt.Scale(scheme="blues", domain=[0, 1])
    cells = base.mark_rect().encode(color=alt.Color("share:Q", scale=blues, legend=None), tooltip=tips)
    ink = alt.condition("datum.share > 0.55", alt.value("#fff"), alt.value(_INK))
    texts = base.mark_text(fontSize=11).encode(text="text:N", color=ink)
    return alt.layer(cells, texts).properties(width="container", height=alt.Step(34))


def _operators() -> Any:
    return (
        alt.Chart(_ROWS)
        .mark_bar(color="#0072b2", height=13)
        .encode(
            x=alt.X("share:Q", title="share of the time", axis=alt.Axis(format=".0%", tickCount=5)),
            y=alt.Y("operator:N", title=None, sort=None, axis=alt.Axis(labelLimit=170)),
            tooltip=["operator:N", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(width="container", height=alt.Step(19))
    )


def _grid() -> Any:
    base = alt.Chart(_ROWS).encode(
        x=alt.X("length:Q", title="tokens", scale=alt.Scale(zero=False)),
        y=alt.Y("ms:Q", title="median time of a call, ms", scale=alt.Scale(type="log")),
        color=alt.Color("backend:N", title=None, legend=alt.Legend(orient="top", columns=3)),
    )
    dash = alt.StrokeDash("batch:O", title="batch", legend=alt.Legend(orient="bottom", direction="horizontal"))
    tips = ["backend:N", "batch:O", "length:Q", alt.Tooltip("ms:Q", title="median, ms", format=".4~g")]
    lines = base.mark_line(strokeWidth=1.6).encode(strokeDash=dash)
    points = base.mark_point(filled=True, opacity=1, size=30).encode(tooltip=tips)
    return alt.layer(lines, points).properties(width="container", height=260)
