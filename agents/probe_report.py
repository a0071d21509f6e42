"""The answers of the probes as JSON, pictures and one HTML page that needs nothing else."""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agents.answers import Answer
from agents.durable import disk_errors, replace_file

COLOURS = {"ours": ("#0072B2", "#009E73", "#56B4E9", "#CC79A7"), "floor": ("#D55E00", "#E69F00", "#7F7F7F")}
STYLES = {"ours": "-", "floor": "--", "ceiling": ":"}
EXPLAINED = {
    "equivariance": "Which action lies between two observations? R² of the action.",
    "state": "What is true now? R² of the simulator's state, hidden parts included.",
    "constant": "What stays true for a whole episode? R².",
    "path": "Path integration: how far has one come, and which way, after so many decisions? R² of the "
    "displacement, seen from where the path began.",
    "rollout": "How far does the model see without looking? Cosine error of the imagined; less is better.",
    "retrieval": "Is the latent imagined nearest to the one that came? Mean reciprocal rank among 50.",
    "dependence": "What does a latent hang on? Share of its variance that moves when a part of the "
    "observation is taken from another moment (0: the part is ignored; shares need not add up to 1).",
    "nuisance": "Does it matter how a state looks? States were drawn again under other light, tints and "
    "camera angles: spread is the share of the variance that comes from the look (0: none of it; 1: all), "
    "look is the R² of its parameters (less is better), and the rest is the R² of the state for heads fitted "
    "on four looks and judged on these and on new ones (no drop: it can be read however it looks).",
}


def write(home: Path, about: dict[str, Any], answers: Sequence[Answer]) -> None:
    """Write report.json, one picture per question and report.html into a folder."""
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        rows = [asdict(answer) for answer in answers]
        replace_file(home / "report.json", json.dumps({"about": about, "answers": rows}, indent=1).encode())
        pictures = {}
        for question in dict.fromkeys(answer.question for answer in answers):
            pictures[question] = home / f"{question}.png"
            draw(question, [a for a in answers if a.question == question], pictures[question])
        replace_file(home / "report.html", page(about, answers, pictures).encode())


def headlines(answers: Sequence[Answer]) -> list[str]:
    """A line per question: the best of ours, of the floors and of the ceilings at the farthest horizon."""
    lines = []
    for question in dict.fromkeys(answer.question for answer in answers):
        asked = [a for a in answers if a.question == question and a.shown]
        for target in dict.fromkeys(a.target for a in asked):
            last = max(a.horizon for a in asked if a.target == target)
            found = [a for a in asked if a.target == target and a.horizon == last]
            parts = []
            for role in ("ours", "floor", "ceiling"):
                mine = [a for a in found if a.role == role]
                if mine:
                    best = (min if found[0].less_is_better else max)(mine, key=lambda a: a.value)
                    parts.append(f"{role} {best.value:.3f} ({best.source})")
            what = f"{question} of {target}" + (f" at {last}" if last > 1 else "")
            lines.append(f"{what:<34} {found[0].metric:<12} {', '.join(parts)}")
    return lines


def draw(question: str, answers: Sequence[Answer], path: Path) -> None:
    """Draw one question: curves over horizons, or bars where there is one horizon."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [a for a in answers if a.shown]
    panels = list(dict.fromkeys((a.target, a.head) for a in shown))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels) + 2.4, 3.8), squeeze=False, layout="constrained"
    )
    for axis, (target, head) in zip(axes[0], panels, strict=True):
        mine = [a for a in shown if (a.target, a.head) == (target, head)]
        sources = list(dict.fromkeys((a.role, a.source) for a in mine))
        if len({a.horizon for a in mine}) > 1:
            _curves(axis, mine, sources)
        else:
            _bars(axis, mine, sources)
        axis.set_title(target if head == "none" else f"{target}, {head} head", fontsize=10)
    if len({a.horizon for a in shown}) > 1:
        axes[0][0].set_ylabel(shown[0].metric.replace("_", " "))
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _colour(role: str, sources: Sequence[tuple[str, str]], source: str) -> str:
    if role == "ceiling":
        return "#000000"
    rank = [name for kind, name in sources if kind == role].index(source)
    return COLOURS[role][rank % len(COLOURS[role])]


def _curves(axis: Any, answers: Sequence[Answer], sources: Sequence[tuple[str, str]]) -> None:
    for role, source in sources:
        points = sorted((a.horizon, a.value) for a in answers if (a.role, a.source) == (role, source))
        line, colour = STYLES[role], _colour(role, sources, source)
        axis.plot(*zip(*points, strict=True), line, color=colour, marker="o", markersize=3, label=source)
    axis.set_xlabel("decisions ahead")
    axis.set_ylim(min(0.0, max(-0.5, min(a.value for a in answers))), None)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _bars(axis: Any, answers: Sequence[Answer], sources: Sequence[tuple[str, str]]) -> None:
    values = {(a.role, a.source): a.value for a in answers}
    for place, (role, source) in enumerate(reversed(sources)):
        value = values[role, source]
        axis.barh(place, max(value, -0.2), color=_colour(role, sources, source), alpha=0.9)
        axis.text(max(value, 0) + 0.01, place, f"{value:.2f}", va="center", fontsize=8)
    axis.set_yticks(range(len(sources)), [source for _, source in reversed(sources)], fontsize=8)
    axis.set_xlim(-0.2, 1.15)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)


def page(about: dict[str, Any], answers: Sequence[Answer], pictures: dict[str, Path]) -> str:
    """One page with every picture and every number inside."""
    facts = " · ".join(f"{html.escape(str(k))} {html.escape(str(v))}" for k, v in about.items())
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Probes</title>",
        "<meta name='viewport' content='width=device-width'><style>",
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}",
        "img{max-width:100%}table{border-collapse:collapse;font-size:13px}",
        "td,th{padding:2px 10px;text-align:left}",
        "td.n{text-align:right;font-variant-numeric:tabular-nums}tr.floor{color:#a04000}tr.ceiling{color:#777}",
        "tr:nth-child(even){background:#f6f6f6}summary{cursor:pointer;color:#0072B2}</style>",
        f"<h1>What the world model of {html.escape(str(about['env']))} knows</h1><p>{facts}</p>",
        "<p>Heads are fitted on half of the episodes and judged on others. Solid: the trained model. Dashed: "
        "floors, what anybody can say. Dotted: ceilings, read from the true states.</p>",
    ]
    for question, path in pictures.items():
        image = base64.b64encode(path.read_bytes()).decode()
        parts.append(f"<h2>{question}</h2><p>{EXPLAINED[question]}</p>")
        parts.append(f"<img alt='{question}' src='data:image/png;base64,{image}'>")
        parts.append("<details><summary>numbers</summary>")
        parts.append(_table([a for a in answers if a.question == question]))
        parts.append("</details>")
    return "\n".join([*parts, "</html>"])


def _table(answers: Sequence[Answer]) -> str:
    horizons = sorted({a.horizon for a in answers})
    kinds = list(dict.fromkeys((a.target, a.source, a.role, a.head, a.metric) for a in answers))
    values = {(a.target, a.source, a.role, a.head, a.metric, a.horizon): a.value for a in answers}
    head = "".join(f"<th>{h}</th>" for h in horizons)
    rows = [
        f"<table><tr><th>of</th><th>from</th><th>role</th><th>head</th><th>metric</th>{head}</tr>",
    ]
    for kind in kinds:
        cells = "".join(f"<td>{html.escape(str(part))}</td>" for part in kind)
        numbers = "".join(
            f"<td class='n'>{values[*kind, h]:.3f}</td>" if (*kind, h) in values else "<td></td>"
            for h in horizons
        )
        rows.append(f"<tr class='{kind[2]}'>{cells}{numbers}</tr>")
    return "\n".join([*rows, "</table>"])
