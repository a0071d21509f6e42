"""The names of built-in environments, as a static list: no simulator is imported to print it."""

import difflib
from collections.abc import Iterable

SUITE: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("swingup", "balance", "balance_sparse", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("walk", "stand", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("swim", "upright"),
    "hopper": ("hop", "stand"),
    "humanoid": ("walk", "stand", "run", "run_pure_state"),
    "humanoid_CMU": ("walk", "stand", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("walk", "stand", "run"),
}
"""Every dm_control suite task by domain; the first one is what the bare domain name means."""

TOYS = (
    *("counter", "identity", "identity_continuous", "point_mass", "ring", "ring_truncated", "rover"),
    *("crash", "hang", "nan_obs"),
)


def names() -> list[str]:
    """List every built-in environment as `dmc_<domain>_<task>`, `dmc_<domain>` or `toy_<task>`."""
    tasks = [f"dmc_{domain}_{task}" for domain, tasks in SUITE.items() for task in tasks]
    return sorted({*tasks, *(f"dmc_{domain}" for domain in SUITE), *(f"toy_{toy}" for toy in TOYS)})


def resolve_suite(task: str | None) -> tuple[str, str]:
    """Turn `walker_walk`, `dmc_walker_walk` or `walker` into (domain, task), or return ('', '')."""
    text = (task or "").removeprefix("dmc_")
    if text in SUITE:
        return text, SUITE[text][0]
    for domain, tasks in SUITE.items():
        if text.startswith(f"{domain}_") and text[len(domain) + 1 :] in tasks:
            return domain, text[len(domain) + 1 :]
    return "", ""


def hint(word: str, known: Iterable[str]) -> str:
    """Say which known names look like a mistyped one."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known)[:12])}, …"
