"""The measurements behind `agents.bench`; each compares with its floor in the same run."""

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from agents import loop
from agents.capturing import REHEARSALS, Captured
from agents.collect import Alternating, collector
from agents.floor import Products, interleaved_ms, median_ms
from agents.launches import use
from agents.replay import Replay, make_replay
from agents.rollouts import EVALUATION_SEED
from envs import EnvError, Spec, from_config, simulator_from_config

Row = tuple[str, float, str, str]
ENVIRONMENTS = 16


class RandomPolicy(torch.nn.Module):
    """Uniform actions: what is left of the time is the plumbing."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.size = spec.action.size

    def forward(self, step: Any) -> Any:
        """Write a random action for every environment."""
        return step.set("action", torch.rand(*step.batch_size, self.size) * 2 - 1)


def build_replay(cfg: Any, spec: Spec, device: torch.device, *, envs: int, capacity: int) -> Replay:
    """A replay of the run's shapes and draws, in memory."""
    fields = {key: (array.shape, array.dtype) for key, array in spec.observation.items()}
    storage = "device" if cfg.replay.storage == "device" else "ram"
    return make_replay(
        fields,
        spec.action.size,
        capacity=capacity,
        num_envs=envs,
        window=cfg.agent.window + 1,
        batch=cfg.agent.batch,
        storage=storage,
        device=device,
        sampler=cfg.replay.sampler,
        alpha=cfg.replay.alpha,
        fade=cfg.replay.fade,
        captured=cfg.agent.capture,
    )


def batch_config(cfg: Any, num: int) -> Any:
    """The environment config with another number of environments."""
    env = copy.copy(cfg.env)
    env.num = num
    return env


def raw_steps(cfg: Any) -> Callable[[int], int]:
    """A loop over the simulator itself, one control step a call, without a line of ours in between."""
    env = cfg.env
    if env.kind == "dmc":
        from dm_control import suite

        from envs.names import resolve_suite

        domain, task = resolve_suite(env.task)
        raw = suite.load(domain, task, task_kwargs={"random": 0})
        spec, draw = raw.action_spec(), np.random.default_rng(0)

        def steps(count: int) -> int:
            for _ in range(count):
                if raw.step(draw.uniform(spec.minimum, spec.maximum)).last():
                    raw.reset()
            return count

        raw.reset()
        return steps
    single = copy.copy(env)
    single.action_repeat = 1
    simulator, draw = simulator_from_config(single, EVALUATION_SEED, 0), np.random.default_rng(0)
    size = simulator.spec.action.size
    simulator.reset()

    def steps(count: int) -> int:
        for _ in range(count):
            step = simulator.step(draw.uniform(-1, 1, size).astype(np.float32))
            if step.terminated or step.truncated:
                simulator.reset()
        return count

    return steps


def collection(cfg: Any, spec: Spec, agent: Any, device: torch.device) -> Iterator[Row]:
    """Random-policy collection through collector and replay, against the raw simulator, taking turns."""
    del agent
    raw = raw_steps(cfg)
    env = from_config(batch_config(cfg, ENVIRONMENTS), seed=cfg.seed)
    replay = build_replay(cfg, spec, device, envs=ENVIRONMENTS, capacity=50_000)
    stream = collector(env, RandomPolicy(spec))

    def collect(control_steps: int) -> int:
        frames = 0
        while frames < control_steps:
            step = next(stream)
            replay.extend(step)
            frames += int(step["next", "frames"].sum())
        return frames

    def speed(work: Callable[[int], int]) -> float:
        start = time.perf_counter()
        return work(1000) / (time.perf_counter() - start)

    for warm_up in (raw, collect):
        speed(warm_up)
    pairs = [(speed(raw), speed(collect)) for _ in range(9)]
    env.close()
    fast, ours = (sorted(column)[4] for column in zip(*pairs, strict=True))
    yield "env/raw", fast, "steps/s", "the simulator alone, one environment, control steps"
    yield "env/collect", ours, "steps/s", f"collector and replay, {ENVIRONMENTS} environments, control steps"
    yield "env/collect_over_raw", ours / fast, "x", "higher is better"


def looping(cfg: Any, spec: Spec, agent: Any, device: torch.device) -> Iterator[Row]:
    """The training loop, against what it spends in the agent and what the simulator alone would take."""
    cfg = copy.deepcopy(cfg)
    cfg.env.num = 1
    source, replay = Alternating(cfg), build_replay(cfg, spec, device, envs=1, capacity=20_000)
    spent = {"act": 0.0, "update": 0.0}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = work(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return result

        return run

    stand_in = SimpleNamespace(
        model=agent.model, device=agent.device, start=agent.start, act=timed("act", agent.act)
    )
    source.attach(stand_in)
    source.start()
    decisions, warm_up = 60, cfg.agent.window + 20
    progress = loop.Progress(loop.Counters(), loop.Episodes.start(1))
    names = ("log", "episode", "evaluate", "probe", "checkpoint", "tick")
    unwatched: Any = SimpleNamespace(**dict.fromkeys(names, lambda *_: True))

    def run(count: int) -> float:
        # One update per decision; the frames of a decision are counted by the loop itself.
        frames = progress.counters.frames + count * spec.action_repeat
        schedule = loop.Schedule(frames, warm_up * spec.action_repeat, 1.0, 0, 0, 0)
        start = time.perf_counter()
        loop.online(
            timed("update", agent.update),
            lambda: source.next(random=False),
            replay,
            schedule,
            progress,
            unwatched,
            stop=lambda: False,
        )
        return time.perf_counter() - start

    run(warm_up + 5)
    spent.update(act=0.0, update=0.0)
    whole = run(decisions)
    source.close()
    raw, start = raw_steps(cfg), time.perf_counter()
    raw(decisions * spec.action_repeat)
    parts = sum(spent.values()) + time.perf_counter() - start
    yield "loop", whole / decisions * 1e3, "ms", "a decision and an update, all told"
    yield "loop_over_parts", whole / parts, "x", "over simulator + act + update; lower is better"


def drawing(cfg: Any, spec: Spec, agent: Any, device: torch.device) -> Iterator[Row]:
    """Pictures per second, as in training and as in videos."""
    del agent, spec
    if cfg.env.kind == "toy":
        return
    try:
        if cfg.env.kind == "dmc":
            from envs.render import choose_backend

            choose_backend()
        simulator = simulator_from_config(cfg.env, EVALUATION_SEED, 0)
        simulator.reset()
        for quality in ("fast", "full"):
            simulator.render(64, 64, quality=quality)
            ms = median_ms(lambda q=quality: simulator.render(64, 64, quality=q), repeats=15, device=device)
            yield f"render/{quality}", ms, "ms", f"64 x 64, {1e3 / ms:,.0f} frames/s"
    except EnvError as error:
        print(f"  render: skipped, {str(error).splitlines()[0]}")


def learning(cfg: Any, spec: Spec, agent: Any, device: torch.device) -> Iterator[Row]:
    """Sampling, acting and updating; the update against its own matrix products, taking turns."""
    replay = build_replay(cfg, spec, device, envs=1, capacity=20_000)
    fill(cfg, spec, replay)
    sample = median_ms(replay.sample, repeats=50, device=device)
    about = f"{cfg.replay.sampler}, {cfg.agent.batch} windows of {cfg.agent.window + 1} rows"
    yield "sample", sample, "ms", about
    carry = agent.start(1)
    obs = {key: value[:1, 0] for key, value in replay.sample().items() if key in spec.observation}
    obs["is_init"] = torch.zeros(1, 1, dtype=torch.bool)
    obs = {key: value.to(device) for key, value in obs.items()}
    act = median_ms(lambda: agent.act(carry, obs, explore=True), repeats=50, device=device)
    yield "act", act, "ms", "one environment, policy or planner as configured"

    batch = replay.sample().to(device)
    configured, agent._learn = agent._learn, agent.learn  # launched piece by piece
    eager, agent._losses = agent._losses, agent.losses  # a compiled graph hides its products
    agent.update(batch)  # the first one also measures number formats, with products of its own
    with Products() as products:
        agent.update(batch)
    agent._losses = eager
    yield from updating(cfg, agent, "update", batch, products, device)
    agent._learn = configured
    if isinstance(configured, Captured):
        yield from updating(cfg, agent, "update_captured", batch, products, device)
        spent = use(lambda: agent.update(replay.sample()), device)
        about = f"windows drawn on {replay.ring.device}"
        yield "update_captured/launches", spent.launches, "launches", f"per update, {about}"
        yield "update_captured/busy", spent.busy * 100, "%", f"of the time a kernel runs, {about}"


def updating(
    cfg: Any, agent: Any, name: str, batch: Any, products: Products, device: torch.device
) -> Iterator[Row]:
    """An update beside its matrix products."""
    for _ in range(REHEARSALS + 1):
        agent.update(batch)
    update, floor = interleaved_ms(lambda: agent.update(batch), products.replay, rounds=30, device=device)
    yield name, update, "ms", f"compile={str(cfg.agent.compile).lower()}, {agent.precision}"
    yield f"{name}/floor", floor, "ms", f"its {len(products.calls)} matrix products alone"
    yield f"{name}_over_floor", update / floor, "x", "lower is better; 1 is the floor"


def planning(cfg: Any, spec: Spec, agent: Any, device: torch.device) -> Iterator[Row]:
    """One planned decision; nothing without a planner."""
    from worldmodel import State

    if cfg.agent.planner == "none":
        return
    belief = torch.zeros(1, agent.model.belief_size, device=device)
    state, generator = State(belief, agent.model.start(1)), torch.Generator(device).manual_seed(0)
    p = cfg.agent.plan
    for name, explore in (("plan", True), ("plan/evaluation", False)):
        plan = partial(agent.plan, state, agent.start(1).plan, generator, explore=explore)
        ms = median_ms(plan, repeats=50, device=device)
        about = f"{p.samples} candidates, {p.iterations} iterations, horizon {agent.horizon(explore=explore)}"
        yield name, ms, "ms", about if explore else f"{about}, not compiled"


def fill(cfg: Any, spec: Spec, replay: Replay) -> None:
    """Collect random decisions from one environment."""
    env = from_config(batch_config(cfg, 1), seed=cfg.seed)
    stream = collector(env, RandomPolicy(spec))
    for _ in range(600):
        replay.extend(next(stream))
    env.close()
