"""The paper's claims: its numbers, and how what was measured here is judged by them."""

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

LESS = 0.03  # differences of accuracy or R2 below this are noise between seeds
CONTROLS = (
    "untrained",
    "leaky",
)  # a random encoder, and one whose target is not held still: no claim is theirs


class Found(NamedTuple):
    """What was answered by one finished run."""

    path: Path
    env: str  # objects or saccades, and the tier: objects_t1
    variant: str
    seed: int
    frames: int
    metrics: dict[str, float]

    @property
    def kind(self) -> str:
        """Name what was looked at: objects or saccades."""
        return self.env.partition("_")[0]


class Evidence:
    """Every finished run, by what it looked at, its variant and its seed."""

    def __init__(self, found: Sequence[Found]) -> None:
        self.found = found

    def by_seed(self, kind: str, variant: str, metric: str) -> dict[int, float]:
        """One metric of a variant, by seed."""
        mine = (f for f in self.found if (f.kind, f.variant) == (kind, variant))
        return {f.seed: f.metrics[metric] for f in mine if metric in f.metrics}

    def mean(self, kind: str, variant: str, metric: str) -> float:
        """Its mean over seeds; raises LookupError when it was not measured."""
        values = list(self.by_seed(kind, variant, metric).values())
        if not values:
            raise LookupError(f"{kind} {variant}")
        return float(np.mean(values))

    def text(self, kind: str, variant: str, metric: str) -> str:
        """Mean and spread over seeds, to be read."""
        values = list(self.by_seed(kind, variant, metric).values())
        if not values:
            return "–"
        spread = f" ±{np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        return f"{np.mean(values):.2f}{spread}"


class Claim(NamedTuple):
    """A statement, the paper's numbers for it, and how ours are judged.

    `judge` takes the variant that is said to have learned and returns our numbers and whether the claim holds
    (None: there is nothing to hold); it raises LookupError when a run it needs is not there.
    """

    name: str
    statement: str
    paper: str
    judge: Callable[[Evidence, str], tuple[str, bool | None]]
    controlled: bool = False  # whether a control could be said to have learned it

    def verdict(self, evidence: Evidence) -> tuple[str, str]:
        """Our numbers, and in words whether the claim holds, for the controls as well."""
        try:
            ours, holds = self.judge(evidence, "both")
        except LookupError as missing:
            return f"not run: {missing}", "–"
        words = ["reported" if holds is None else "holds" if holds else "FAILS"]
        for control in CONTROLS if self.controlled else ():
            try:
                words.append(f"{control} {'HOLDS TOO' if self.judge(evidence, control)[1] else 'fails'}")
            except LookupError:
                continue
        return ours, ", ".join(words)


def _gap(e: Evidence, kind: str, metric: str, one: str, other: str) -> tuple[float, float]:
    """The mean difference of two variants over the seeds both have, and its two-sided p (paired t)."""
    a, b = e.by_seed(kind, one, metric), e.by_seed(kind, other, metric)
    common = sorted(a.keys() & b.keys())
    if not common:
        raise LookupError(f"{kind} {one} and {other}")
    differences = np.array([a[s] - b[s] for s in common])
    if len(common) < 2:
        return float(differences.mean()), math.nan
    t = differences.mean() / max(differences.std(ddof=1) / math.sqrt(len(common)), 1e-12)
    return float(differences.mean()), _two_sided(abs(float(t)), len(common) - 1)


def _two_sided(t: float, freedom: int) -> float:
    """The p of a t statistic, by summing the density between -t and t."""
    x = np.linspace(-t, t, 20_001)
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    return max(0.0, 1 - float(np.trapezoid(scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2), x)))


def _c1(e: Evidence, who: str) -> tuple[str, bool]:
    gap, p = _gap(e, "objects", "action/mlp", who, "none")
    named = ("both", "none", *CONTROLS)
    told = ", ".join(f"{name} {e.text('objects', name, 'action/mlp')}" for name in named)
    return f"R² {told}; gap {gap:.2f}, p {p:.3f}", gap >= 0.2 and p < 0.05


def _c2(e: Evidence, _who: str) -> tuple[str, bool]:
    names = ("none", "aggregator", "predictor", "both")
    values = [e.mean("objects", name, "action/mlp") for name in names]
    told = ", ".join(f"{name} {e.text('objects', name, 'action/mlp')}" for name in names)
    return f"R² {told}", values[2] > values[1]


def _curve(e: Evidence, kind: str, variant: str, feature: str) -> list[float]:
    return [e.mean(kind, variant, f"class/{feature}@{views}") for views in range(1, 6)]


def _c3(e: Evidence, who: str) -> tuple[str, bool]:
    told, floor = [], _curve(e, "objects", "untrained", "belief")
    for variant in ("both", *CONTROLS):
        with contextlib.suppress(LookupError):
            curve = _curve(e, "objects", variant, "belief")
            told.append(f"{variant} " + " ".join(f"{100 * value:.1f}" for value in curve))
    curve = _curve(e, "objects", who, "belief")
    rises = all(b >= a for a, b in itertools.pairwise(curve)) and curve[-1] - curve[0] >= LESS
    # More views help a random encoder too; what was learned is above it at every length.
    learned = all(a >= b + LESS for a, b in zip(curve, floor, strict=True))
    return f"% of M = 1..5: {'; '.join(told)}", rises and learned


def _c4(e: Evidence, who: str) -> tuple[str, bool]:
    belief, mean = (e.mean("objects", who, f"class/{feature}@5") for feature in ("belief", "mean"))
    latent = e.mean("objects", who, "class/latent")
    floor = max(e.mean("objects", "untrained", f"class/{feature}@5") for feature in ("belief", "mean"))
    told = (
        f"one view {100 * latent:.1f}, belief of 5 {100 * belief:.1f}, mean of 5 latents {100 * mean:.1f}, "
        f"untrained {100 * floor:.1f} %"
    )
    return told + (" (the mean does better)" if mean > belief else ""), belief > max(latent, floor)


def _c5(e: Evidence, _who: str) -> tuple[str, bool]:
    names = ("observed1", "observed2", "both")
    values = [e.mean("objects", name, "action/mlp") for name in names]
    told = " ".join(e.text("objects", name, "action/mlp") for name in names)
    return f"R² for M_tr 1 2 3: {told}", values[1] > values[0]


def _c6(e: Evidence, _who: str) -> tuple[str, bool]:
    gap, _ = _gap(e, "objects", "action/mlp", "both", "narrow")
    told = (
        f"R² 16: {e.text('objects', 'narrow', 'action/mlp')}, 64: {e.text('objects', 'both', 'action/mlp')}"
    )
    return told, abs(gap) <= LESS


def _c7(e: Evidence, _who: str) -> tuple[str, bool]:
    accuracy, _ = _gap(e, "objects", "class/belief@5", "colour", "both")
    turn, _ = _gap(e, "objects", "action/mlp", "colour", "both")
    hues = e.text("objects", "colour", "hues/linear")
    return (
        f"accuracy {100 * accuracy:+.1f} points, rotation R² {turn:+.2f}, hues {hues}",
        accuracy < 0 and turn < 0,
    )


def _path(e: Evidence, kind: str, variant: str, source: str, lengths: Sequence[int]) -> str:
    return " ".join(e.text(kind, variant, f"path/{source}@{views}") for views in lengths)


def _c8(e: Evidence, who: str) -> tuple[str, bool]:
    ours = e.mean("saccades", who, "path/both@7")
    floors = [e.mean("saccades", who, f"path/{name}@7") for name in ("last_action", "final_pose", "see")]
    told = [
        f"{name} {_path(e, 'saccades', who, name, (2, 3, 5, 7))}"
        for name in ("both", "act", "see", "last_action", "final_pose")
    ]
    told += [
        f"{variant} {_path(e, 'saccades', variant, 'both', (2, 3, 5, 7))}"
        for variant in ("none", "untrained")
    ]
    return f"R² at M = 2 3 5 7: {'; '.join(told)}", ours > max(floors)


def _c9(e: Evidence, _who: str) -> tuple[str, None]:
    told = [f"both {_path(e, 'objects', 'both', 'both', (2, 3, 5, 7))}"]
    e.mean("objects", "both", "path/both@2")
    told.append(f"with positions {_path(e, 'objects', 'positions', 'both', (2, 3, 5, 7))}")
    for name in ("act", "see", "last_action", "final_pose", "every_action"):
        told.append(f"{name} {_path(e, 'objects', 'both', name, (2, 3, 5, 7))}")
    return f"R² at M = 2 3 5 7: {'; '.join(told)}", None


def _c10(e: Evidence, _who: str) -> tuple[str, bool]:
    value = e.mean("objects", "both", "action_beyond/mlp")
    return f"R² {value:.2f} for turns beyond those seen", value < 0


def _c11(e: Evidence, _who: str) -> tuple[str, None]:
    e.mean("objects", "both", "belief_pose/mlp")
    pose, first = (e.text("objects", "both", f"{name}/mlp") for name in ("belief_pose", "first_action"))
    return f"R² of the present pose {pose}, of the first action {first} (from the belief of 3 views)", None


CLAIMS = (
    Claim(
        "C1", "actions make latents equivariant", "R² .71 against .29 without actions", _c1, controlled=True
    ),
    Claim(
        "C2",
        "the predictor needs them more than the aggregator",
        "R² none .29, aggregator .37, predictor .53, both .71",
        _c2,
    ),
    Claim("C3", "the belief gains from more views", "81.7 % (1 view) to 87.4 % (5)", _c3, controlled=True),
    Claim("C4", "the belief of many views beats one latent", "87.4 against 82.5 %", _c4, controlled=True),
    Claim(
        "C5",
        "longer sequences help equivariance, mostly from 1 to 2",
        "R² .650 .701 .706 for M_tr = 1 2 3",
        _c5,
    ),
    Claim("C6", "the width of the embedded action hardly matters", "R² .70 to .72 for 16 to 256", _c6),
    Claim(
        "C7",
        "conditioning on colour costs accuracy",
        "87.4 to 79.3 %, rotation R² .71 to .52, colour .97",
        _c7,
    ),
    Claim(
        "C8",
        "eye movements are integrated, and need to be known",
        "R² at M = 2 3 5 7: both .97 .93 .88 .87, act .98 .93 .83 .78, see about 0",
        _c8,
        controlled=True,
    ),
    Claim(
        "C9",
        "rotations are integrated, a little",
        "R² at M = 2 3 5 7: both .85 .46 .34 .29, act .27 .21 .15 .14; last action .12, final pose .32",
        _c9,
    ),
    Claim("C10", "nobody extrapolates to other rotations", "R² -.71", _c10),
    Claim(
        "C11",
        "what the belief keeps of pose and of the first action",
        "not measured; .34 for the action in another's run on other data",
        _c11,
    ),
)
