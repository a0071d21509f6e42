"""The schema of a run: every setting with its default, its help text and the values it accepts.

Not frozen: Hydra cannot compose into frozen dataclasses. Other values than these defaults live in `configs/`.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agents.options import UserError, check_value, option

BACKENDS = ("serial", "thread", "process", "envpool")


@dataclass
class RunSettings:
    """Where a run lives on disk."""

    dir: str | None = option(None, "exact run directory (default: found or made below run.root)")
    root: str = option("runs", "folder of all run directories")
    fresh: bool = option(False, "start anew even where a run with the same settings exists")


@dataclass
class EnvConfig:
    """The environment; `env=NAME` fills it."""

    name: str = option("", "name used for the run directory (default: made from kind and task)")
    kind: str = option("dmc", "where it comes from", choices=("dmc", "gym", "toy", "entry"))
    task: str | None = option(None, "dm_control task as domain_task, or the name of a toy")
    id: str | None = option(None, "Gymnasium id, as in Pendulum-v1")
    entry: str | None = option(None, "your own factory, as in my_package.envs:make (command line only)")
    kwargs: dict[str, Any] = option(text="arguments of the environment's constructor", factory=dict)
    action_repeat: int = option(1, "control steps per decision", low=1, high=1000)
    observations: str = option("state", "what the agent sees", choices=("state", "pixels", "both"))
    pixels: int = option(64, "side of the image", low=8, high=1024)
    camera: int = option(0, "camera number", low=-1)
    time_limit: int | None = option(None, "control steps per episode (default: its own)", low=1)
    hide: list[str] = option(text="observations or parts of them not shown, as in [velocity]", factory=list)
    delay: int = option(0, "decisions by which observations come late", low=0, high=100)
    distractors: int = option(0, "channels of noise that are observed as well", low=0, high=10_000)
    distractor_memory: float = option(0.9, "what noise keeps from decision to decision", low=0.0, high=0.9999)
    distractor_scale: float = option(1.0, "standard deviation of the noise", low=0.0)
    drop: float | None = option(
        None, "share of sensors that are dead for an episode, and marked so", low=0.0, high=1.0
    )
    reward_seen: bool = option(False, "the last reward is observed too, as last_reward")
    recall: int = option(
        0, "decisions of the past that are observed too: actions and how vectors changed", low=0, high=100
    )
    num: int = option(1, "environments stepped together", low=1, high=4096)
    backend: str = option("serial", "how they are stepped", choices=BACKENDS)
    workers: int | None = option(None, "worker processes or threads (default: one per core)", low=1)
    timeout_s: float = option(60.0, "seconds before a silent worker counts as hung", low=0.1)
    restarts: int = option(5, "dead workers replaced before the run gives up", low=0)


@dataclass
class PlanConfig:
    """Numbers of the planner (used when agent.planner is not none)."""

    samples: int = option(48, "candidate plans per iteration", low=2)
    guides: int = option(16, "candidates proposed by the policy", low=0)
    elites: int = option(12, "candidates kept per iteration", low=1)
    iterations: int = option(2, "refinements per decision", low=1)
    horizon: int = option(3, "decisions looked ahead", low=1, high=100)
    eval_horizon: int | None = option(
        6,
        "decisions ahead in evaluation (null: as many); if more, plans are judged at once and after both",
        low=1,
        high=100,
    )
    temperature: float = option(0.5, "softness of the weighting of elites", low=1e-6)
    std_min: float = option(0.05, "smallest spread of candidate actions", low=0.0)
    std: float = option(0.6, "first spread of candidate actions", low=1e-6)
    margin: float | None = option(
        None,
        "in evaluation, how much better than the policy a plan must be, in critics' differences (null: any)",
        low=0.0,
    )


@dataclass
class AgentConfig:
    """Numbers of the algorithm."""

    batch: int = option(64, "windows per update", low=1)
    window: int = option(4, "decisions per window, so window + 1 rows", low=1, high=1024)
    nstep: int = option(3, "rewards summed before the value takes over", low=1)
    discount: float | None = option(
        None, "discount per decision (default: by episode length and agent.horizons)", low=0.0, high=1.0
    )
    horizons: float = option(
        5.0, "horizons of that discount in an episode (15 of 500 decisions: 0.97)", low=1.0
    )
    hidden: int = option(256, "width of policy and critics", low=1)
    critics: int = option(2, "critics in the ensemble", low=1)
    bins: int = option(51, "bins of a two-hot value", low=2)
    model_lr: float = option(1e-3, "learning rate of the world model", low=0.0)
    critic_lr: float = option(1e-3, "learning rate of the critics", low=0.0)
    policy_lr: float = option(5e-4, "learning rate of the policy", low=0.0)
    critic_weight: float = option(1.0, "weight of the critics' loss", low=0.0)
    policy_regulariser: float = option(1e-5, "weight of the policy's regulariser", low=0.0)
    imitation: float = option(
        0.0, "weight of following what was done, where critics prefer it to a continuous policy", low=0.0
    )
    weight_decay: float = option(1e-4, "decoupled weight decay", low=0.0)
    grad_clip: float = option(20.0, "largest gradient norm", low=1e-9)
    tau: float = option(0.01, "rate of the moving averages: target critics, and what acts", low=0.0, high=1.0)
    policy_noise: float = option(0.2, "noise on target actions", low=0.0)
    noise_clip: float = option(0.3, "largest noise on target actions", low=0.0)
    explore_noise: float = option(0.1, "noise on continuous actions while collecting", low=0.0)
    hide: float = option(
        0.0, "share of the sensors hidden anew from every replayed window (with env.drop)", low=0.0, high=1.0
    )
    wander: float = option(
        0.5, "share of time at random while there is no reward; less the more there are", low=0.0, high=1.0
    )
    planner: str = option("mppi", "what chooses actions besides the policy", choices=("none", "mppi"))
    plan: PlanConfig = field(default_factory=PlanConfig)
    compile: bool = option(True, "compile the update and the planner (minutes the first time)")
    precision: str = option(
        "auto",
        "what the update multiplies in; auto measures it once",
        choices=("auto", "float32", "bfloat16"),
    )
    capture: bool = option(True, "record the update as one CUDA graph (GPU only)")


@dataclass
class ReplayConfig:
    """The replay buffer."""

    storage: str = option("ram", "where rows live", choices=("ram", "memmap", "device"))
    capacity: int = option(1_000_000, "rows kept; in ram memory is taken as they arrive", low=2)
    sampler: str = option("prioritized", "how windows are drawn", choices=("uniform", "prioritized"))
    alpha: float = option(0.4, "exponent of the priorities", low=0.0)
    fade: float = option(0.9999, "what a decision of age leaves of a weight (1: all)", low=0.5, high=1.0)


@dataclass
class TrainerConfig:
    """Budgets and cadences; every budget is in frames (control steps, action repeat counted)."""

    frames: int = option(100_000, "training budget", low=1)
    warmup_frames: int = option(5_000, "frames of random actions first", low=0)
    updates_per_decision: float = option(1.0, "gradient steps per decision of one environment", low=0.0)
    encoder: str | None = option(None, "pre-trained run whose encoder this one begins with")
    eval_every: int = option(10_000, "frames between evaluations (0: only at the end)", low=0)
    eval_episodes: int = option(10, "episodes per evaluation", low=1)
    probe_every: int = option(0, "frames between probes of the world model (0: never)", low=0)
    checkpoint_every: int = option(10_000, "frames between checkpoints (0: only at the end)", low=0)
    keep: int = option(3, "checkpoints kept", low=2)
    log_every: int = option(1_000, "frames between rows of metrics", low=1)
    video: bool = option(True, "film one episode per evaluation where rendering works")
    threads: int = option(
        1, "torch threads; 2 is 1.5 times faster on an idle machine, slower on a busy one", low=1, high=1024
    )
    collector: str = option("sync", "collect between updates or beside them", choices=("sync", "async"))


@dataclass
class LoggerConfig:
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = option(True, "write TensorBoard files below tb/")
    wandb: bool = option(False, "log to Weights & Biases (offline without a key)")
    project: str = option("jepa-agents", "Weights & Biases project")
    progress: str = option("auto", "console progress", choices=("auto", "rich", "plain", "off"))
    every_s: float = option(10.0, "seconds between plain progress lines", low=0.1)


@dataclass
class RunConfig:
    """Everything that one training run is made from."""

    seed: int = option(0, "seed of everything random", low=0, high=2**31 - 1)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    run: RunSettings = field(default_factory=RunSettings)
    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    worldmodel: dict[str, Any] = option(text="parts of the world model, which checks them", factory=dict)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def leaves(schema: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yield (dotted key, type, field) for every setting of the schema."""
    hints = typing.get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        hint = hints[entry.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", hint, entry


def check_values(config: Any) -> None:
    """Raise UserError for values of any configuration that leave their own range."""
    for key, _, entry in leaves(type(config)):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        check_value(key, value, entry.metadata)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"device cannot be {config.device!r}", "choose auto, cpu, cuda or cuda:N")


def check(config: RunConfig) -> None:
    """Raise UserError for values that leave their range or contradict each other."""
    check_values(config)
    _check_env(config.env)
    agent, replay = config.agent, config.replay
    if agent.hide and config.env.recall:
        text = f"env.recall={config.env.recall} shows how sensors changed that agent.hide={agent.hide} hides"
        raise UserError(text, "drop one of them")
    if agent.batch > replay.capacity:
        text = f"agent.batch={agent.batch} is larger than replay.capacity={replay.capacity}"
        raise UserError(text, f"set replay.capacity={agent.batch * 10} or a smaller agent.batch")
    if agent.nstep > agent.window:
        text = f"agent.nstep={agent.nstep} is longer than agent.window={agent.window}"
        raise UserError(text, f"set agent.window={agent.nstep} or a smaller agent.nstep")
    steps, after = (config.worldmodel.get(*each) for each in (("rollout_steps", 0), ("rollout_after", 1)))
    if isinstance(steps, int) and isinstance(after, int) and steps and steps + after - 1 > agent.window:
        need = steps + after - 1
        text = (
            f"worldmodel.rollout_steps={steps} after {after} rows is longer than agent.window={agent.window}"
        )
        raise UserError(text, f"set agent.window={need} or a smaller worldmodel.rollout_steps")
    if agent.window >= replay.capacity // config.env.num:
        rows = replay.capacity // config.env.num
        text = f"a window of {agent.window} decisions does not fit the {rows} replay rows of one environment"
        raise UserError(text, "raise replay.capacity")
    if agent.plan.elites > agent.plan.samples + agent.plan.guides:
        text = f"agent.plan.elites={agent.plan.elites} is more than the candidates there are"
        raise UserError(text, f"set agent.plan.elites={agent.plan.samples // 8} or more agent.plan.samples")
    if agent.planner != "none" and agent.plan.margin is not None and not agent.plan.guides:
        text = "agent.plan.margin compares a plan with the policy's own, which is the first guide"
        raise UserError(text, "set agent.plan.guides=1 or more, or agent.plan.margin=null")


def _check_env(env: EnvConfig) -> None:
    needs = {"dmc": "task", "toy": "task", "gym": "id", "entry": "entry"}[env.kind]
    if not getattr(env, needs):
        example = {"task": "walker_walk", "id": "Pendulum-v1", "entry": "package.module:function"}[needs]
        if env.kind == "toy":
            example = "ring"
        raise UserError(f"env.kind={env.kind} needs env.{needs}", f"add env.{needs}={example}")
    for kind, key in (("entry", "entry"), ("gym", "id")):
        if getattr(env, key) and env.kind != kind:
            fix = f"drop it, or use env={kind}"
            raise UserError(f"env.{key} has no effect with env.kind={env.kind}", fix)
    if env.kind == "entry" and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", env.entry or ""):
        raise UserError(
            f"env.entry={env.entry} is not of the form package.module:function", "use one colon, no path"
        )
