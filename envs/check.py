"""Diagnose an environment in plain words before days of training are spent on it."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from envs.spec import EnvError, Simulator, Spec, Step
from envs.wire import pack, unpack

MakeSimulator = Callable[[int, int], Simulator]
"""Build the simulator of (seed, index)."""

_DECISIONS = 200
_MAX_DECISIONS = 5000


class Finding(NamedTuple):
    """One result; `level` is ok, warning or problem, `fix` says what to do about the latter two."""

    level: str
    text: str
    fix: str


def diagnose(build: MakeSimulator) -> list[Finding]:
    """Try what training needs: spaces, finite numbers, seeding, ends, exact snapshots and speed."""
    try:
        simulator = build(0, 0)
    except Exception as error:  # noqa: BLE001 - a finding, whatever it is
        return [_broken("cannot be built", error)]
    findings: list[Finding] = []
    checks = (_spaces, _numbers, _seeding, _ends, _snapshots, _speed)
    for check in checks:
        try:
            findings += check(simulator, build)
        except Exception as error:  # noqa: BLE001 - a finding, whatever it is
            findings.append(_broken(f"stopped the check of {check.__name__.strip('_')}", error))
    simulator.close()
    return findings


def _broken(what: str, error: Exception) -> Finding:
    text = str(error) if isinstance(error, EnvError) else f"{type(error).__name__}: {error}"
    return Finding(
        "problem", f"the environment {what}: {text}", "repair the environment where the message points"
    )


def _actions(spec: Spec, count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.uniform(-1, 1, (count, spec.action.size)).astype(np.float32)


def _spaces(simulator: Simulator, build: MakeSimulator) -> Iterator[Finding]:
    spec = simulator.spec
    seen = ", ".join(f"{key} {array.dtype}{list(array.shape)}" for key, array in spec.observation.items())
    yield Finding(
        "ok", f"{spec.name}: observations {seen}; {spec.action.kind} action of {spec.action.size}", ""
    )
    obs = simulator.reset()
    wrong = [
        f"{key} is {obs[key].dtype}{list(obs[key].shape)}" if key in obs else f"{key} is missing"
        for key, array in spec.observation.items()
        if key not in obs or obs[key].shape != array.shape or obs[key].dtype != array.dtype
    ]
    if wrong:
        yield Finding(
            "problem", f"reset does not keep to the spec: {'; '.join(wrong)}", "return what the spec promises"
        )
    if not spec.observation:
        yield Finding("problem", "nothing is observed", "set env.observations=both or pixels")


def _numbers(simulator: Simulator, build: MakeSimulator) -> Iterator[Finding]:
    steps = _play(simulator, _actions(simulator.spec, _DECISIONS))
    bad = sorted(
        {k for s in steps for k, v in s.obs.items() if v.dtype != np.uint8 and not np.isfinite(v).all()}
    )
    bad += ["the reward"] if not np.isfinite([s.reward for s in steps]).all() else []
    if bad:
        yield Finding(
            "problem", f"NaN or infinite: {', '.join(bad)}", "clip or end the episode before it breaks"
        )
        return
    rewards = np.array([s.reward for s in steps])
    low, high = rewards.min(), rewards.max()
    yield Finding(
        "ok", f"{len(steps)} random decisions: all numbers finite, rewards {low:.3g} to {high:.3g}", ""
    )
    if low == high:
        yield Finding("warning", "the reward never changed", "check the reward, or expect hard exploration")
    large = [k for k, v in steps[-1].obs.items() if v.dtype != np.uint8 and np.abs(v).max() > 1e3]
    if large:
        yield Finding("warning", f"numbers beyond 1000 in {', '.join(large)}", "rescale the observation")
    if all(_same(a, b) for a, b in pairwise(steps)):
        yield Finding(
            "problem", "the observation never changed", "copy the array before returning it, or step"
        )


def _seeding(simulator: Simulator, build: MakeSimulator) -> Iterator[Finding]:
    actions = _actions(simulator.spec, 50)
    first, again, other = build(3, 0), build(3, 0), build(3, 1)
    try:
        runs = [(sim.reset(), _play(sim, actions)) for sim in (first, again, other)]
    finally:
        for sim in (first, again, other):
            sim.close()
    (start, run), (start_again, run_again), (start_other, _) = runs
    equal = _equal(start, start_again) and all(_same(a, b) for a, b in zip(run, run_again, strict=True))
    if equal:
        yield Finding("ok", "same seed, same episode: bit for bit", "")
    else:
        yield Finding(
            "problem",
            "two environments with the same seed differ",
            "draw every random number from reset(seed=…)",
        )
    if _equal(start, start_other):
        yield Finding(
            "warning", "another seed starts in the same place", "fine if the start is fixed on purpose"
        )


def _ends(simulator: Simulator, build: MakeSimulator) -> Iterator[Finding]:
    spec = simulator.spec
    simulator.reset()
    frames, ended = 0, None
    actions = _actions(spec, 256)
    for i in range(_MAX_DECISIONS):
        step = simulator.step(actions[i % len(actions)])
        frames += step.frames
        if step.terminated or step.truncated:
            ended = step
            break
    if ended is None:
        yield Finding(
            "warning",
            f"no episode ended in {frames} control steps",
            "set env.time_limit, or returns are never logged",
        )
        return
    how = "terminated" if ended.terminated else "truncated"
    yield Finding("ok", f"a random episode was {how} after {frames} control steps", "")
    if ended.terminated and frames == spec.episode_frames:
        yield Finding(
            "warning",
            "the time limit shows as termination",
            "report it as truncated, or values at the limit are wrong",
        )


def _snapshots(simulator: Simulator, build: MakeSimulator) -> Iterator[Finding]:
    actions = _actions(simulator.spec, 40, seed=1)
    simulator.reset()
    if any(s.terminated or s.truncated for s in _play(simulator, actions[:5], stop=True)):
        simulator.reset()
    saved = unpack(pack(simulator.snapshot()))
    expected = _play(simulator, actions[5:], stop=True)
    twin = build(simulator.seed, simulator.index)
    try:
        twin.restore(saved)
        got = _play(twin, actions[5:], stop=True)
    finally:
        twin.close()
    if len(got) == len(expected) and all(_same(a, b) for a, b in zip(got, expected, strict=True)):
        yield Finding("ok", "snapshot and restore continue bit for bit", "")
    else:
        yield Finding(
            "warning",
            "a restored environment goes on differently, so resuming is not exact",
            _why_inexact(twin),
        )


def _why_inexact(twin: Any) -> str:
    return getattr(twin, "warning", "") or "save every variable in snapshot, the random generator included"


def _speed(simulator: Simulator, build: MakeSimulator) -> Iterator[Finding]:
    actions = _actions(simulator.spec, _DECISIONS)
    simulator.reset()
    began = time.perf_counter()
    frames = sum(step.frames for step in _play(simulator, actions))
    rate = frames / (time.perf_counter() - began)
    slow = rate < 100
    fix = (
        "profile the environment; env.num=8 env.backend=process helps where it is simulation" if slow else ""
    )
    yield Finding("warning" if slow else "ok", f"{rate:,.0f} control steps per second, one environment", fix)


def _play(simulator: Simulator, actions: np.ndarray, *, stop: bool = False) -> list[Step]:
    steps = []
    for action in actions:
        steps.append(simulator.step(action))
        if steps[-1].terminated or steps[-1].truncated:
            if stop:
                break
            simulator.reset()
    return steps


def _equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(a[key], b[key], equal_nan=a[key].dtype != np.uint8) for key in a
    )


def _same(a: Step, b: Step) -> bool:
    return _equal(a.obs, b.obs) and a[1:] == b[1:]
