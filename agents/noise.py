"""What world models keep of channels of noise, by latents and by reconstruction, and what that costs."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.cli import UserError
from agents.evidence import RunRecord, read_runs, row_of

METRIC = "eval/return"
EPISODES, DECISIONS = 12, 200
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = "osD^v"  # by how far noise can be predicted

Tell = Callable[[str, int], None]


class Judged(NamedTuple):
    """A run: how it was taught, among how many channels of what noise, and what came of it."""

    run: RunRecord
    method: str
    channels: int
    memory: float  # what noise keeps from decision to decision; 0 where there is none
    frames: int
    values: dict[str, float]


def judge(patterns: Sequence[str], tell: Tell, entry: str | None = None) -> list[Judged]:
    """Ask every agent what its latents hang on and what is read from them; its return is its own last one."""
    found = []
    runs = [run for run in read_runs(patterns) if "agent" in run.config]  # others were pre-trained
    if not runs:
        raise UserError(f"no agent was trained in {' '.join(patterns)}", "train one: python -m agents.train")
    for run in runs:
        env = run.config.get("env", {})
        channels = env.get("distractors", 0)
        memory = env.get("distractor_memory", 0.0) if channels else 0.0
        curve = run.curve(METRIC, "")
        if not len(curve.frames):
            raise UserError(f"{run.path} has not been evaluated yet", "train it a little longer")
        values = {METRIC: float(curve.values[-1])} | asked(run.path, entry)
        method = _method(run.config["worldmodel"])
        found.append(Judged(run, method, channels, memory, int(curve.frames[-1]), values))
        tell("runs asked", len(found))
    return sorted(found, key=lambda one: (one.channels, one.memory, one.method, one.run.seed))


def _method(worldmodel: dict[str, Any]) -> str:
    name = "reconstruction" if worldmodel["target"]["name"] == "input" else "JEPA"
    return f"{name}, sparse" if "sparsity" in worldmodel["terms"] else name


def asked(run: Path, entry: str | None = None) -> dict[str, float]:
    """What the latents of a run hang on, and how well signal and noise are read from them."""
    import torch

    from agents.dependence import encode, parts_of, share
    from agents.loading import load_run
    from agents.recording import record
    from envs.distractors import KEY
    from worldmodel.probes import probe, split

    loaded = load_run(str(run), entry=entry)
    loaded.agent.model.eval()
    recording = record(
        loaded.agent, loaded.config.env, episodes=EPISODES, decisions=DECISIONS, seed=0, looks=0
    )
    assert recording is not None
    kept = recording.valid.flatten()
    number = torch.arange(recording.episodes).repeat_interleave(recording.valid.shape[1])[kept]
    obs = {key: value.flatten(0, 1)[kept] for key, value in recording.obs.items()}
    z, parts, values = encode(loaded.agent.model, obs), parts_of(loaded.spec), {}
    groups = {"noise": [p for p in parts if p.key == KEY], "signal": [p for p in parts if p.key != KEY]}
    for name, group in groups.items():
        if not group:
            continue
        values[f"dependence/{name}"] = share(loaded.agent.model, obs, group)
        labels = torch.cat([obs[p.key].flatten(1)[:, p.entries] for p in group], 1).double()
        values[f"read/{name}"] = probe(z, labels, split(number)).uniform
    return values


def lines_of(found: Sequence[Judged]) -> Iterator[str]:
    """A table: the mean over seeds of everything, by method and channels."""
    names = sorted({name for one in found for name in one.values})
    yield f"{'taught by':<24}{'noise':>6}{'memory':>8}{'seeds':>6}" + "".join(f"{name:>20}" for name in names)
    for kind in dict.fromkeys((one.method, one.channels, one.memory) for one in found):
        mine = [one.values for one in found if (one.method, one.channels, one.memory) == kind]
        method, channels, memory = kind
        cells = [[values[name] for values in mine if name in values] for name in names]
        shown = "".join(f"{np.mean(cell) if cell else float('nan'):>20.3f}" for cell in cells)
        yield f"{method:<24}{channels:>6}{memory:>8g}{len(mine):>6}{shown}"


def rows_of(found: Sequence[Judged]) -> Iterator[dict[str, str]]:
    """Every number as a row of evidence."""
    for one in found:
        wall = one.run.seconds_at(np.array([one.frames]))[0]
        for metric, value in sorted(one.values.items()):
            method = f"{one.method}, memory {one.memory:g}" if one.channels else one.method
            yield row_of(one.run, "distractors", method, one.frames, metric, f"{value:.5f}", wall)


def draw(found: Sequence[Judged], path: Path) -> None:
    """Draw the return, what latents hang on and what is read from them, over channels of noise."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {METRIC: ("-",), "dependence": ("noise", "signal"), "read": ("noise", "signal")}
    titles = ("return", "share of the latents that hangs on …", "R² of what is read from latents")
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    memories = sorted({one.memory for one in found if one.channels}) or [0.0]
    for axis, (panel, kinds), title in zip(axes, panels.items(), titles, strict=True):
        for method, colour in zip(dict.fromkeys(one.method for one in found), COLOURS, strict=False):
            for kind in kinds:
                name = panel if panel == METRIC else f"{panel}/{kind}"
                for marker, memory in zip(MARKERS, memories, strict=False):
                    # A run without noise begins the line of every kind of noise.
                    shown = [one for one in found if not one.channels or one.memory == memory]
                    mine = [one for one in shown if one.method == method]
                    label = method + ("" if kind == "-" else f", {kind}")
                    label += f", memory {memory:g}" if len(memories) > 1 else ""
                    _line(axis, mine, name, label, marker + ("--" if kind == "noise" else "-"), colour)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("channels of noise", fontsize=9)
    axes[0].set_ylim(0, None)
    axes[-1].legend(*axes[1].get_legend_handles_labels(), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axis: Any, found: Sequence[Judged], name: str, label: str, style: str, colour: str) -> None:
    by_channels: dict[int, list[float]] = {}
    for one in found:
        if name in one.values:
            by_channels.setdefault(one.channels, []).append(one.values[name])
    if not by_channels:
        return
    xs = sorted(by_channels)
    fill = "none" if "--" in style else "full"
    axis.plot(xs, [np.mean(by_channels[x]) for x in xs], style, color=colour, label=label, fillstyle=fill)
    for x in xs:
        axis.plot([x] * len(by_channels[x]), by_channels[x], ".", color=colour, alpha=0.5)
