"""The help of commands that take the whole configuration; imports nothing heavy."""

import functools

from agents.overrides import environments, groups
from agents.pretrain_schema import PretrainConfig
from agents.schema import RunConfig, leaves

USUAL = (
    *(
        "seed",
        "device",
        "trainer.frames",
        "trainer.threads",
        "env.num",
        "env.action_repeat",
        "env.observations",
    ),
    *("agent.planner", "agent.compile", "replay.capacity", "logger.wandb", "run.dir", "run.fresh"),
)
EXAMPLES = (
    "env=dmc_walker",
    "env=dmc_cheetah_run trainer.frames=500000 seed=1",
    "env=gym env.id=Pendulum-v1",
    "env.entry=my_package.envs:make",
    "env=toy_ring trainer=debug",
    "env=dmc_walker agent=policy",
)
PRETRAIN_USUAL = (
    *("seed", "device", "data.tier", "data.root", "learning.updates", "learning.batch", "learning.observed"),
    *("learning.threads", "study.seeds", "study.only", "run.root", "run.dir", "run.fresh"),
)
CALIBRATE_EXAMPLES = (
    "data=objects data.tier=t1",
    "data=saccades data.tier=t0",
    "data=objects worldmodel=seq_jepa_paper device=cuda",
)
PRETRAIN_EXAMPLES = (
    "experiment=objects",
    "experiment=objects data.tier=t0 study.only=[both,none] study.seeds=1",
    "experiment=saccades",
    "experiment=table data.table=houses.csv data.label=price",
    "data=objects worldmodel=seq_jepa_paper device=cuda learning.batch=512",
)


def help_text(command: str, load: str = "load_config") -> str:
    """Return the help of a command whose configuration is composed by this function of agents.config."""
    schema = PretrainConfig if load == "load_pretraining" else RunConfig
    fields = {key: field for key, _, field in leaves(schema)}
    lines = [f"usage: python -m agents.{command} [group=choice …] [key=value …]", "", "groups:"]
    shown = {name: found for name, found in groups(schema).items() if "/" not in name and name != "env"}
    lines += [f"  {name + '=':<14} {', '.join(choices)}" for name, choices in shown.items()]
    if schema is RunConfig:
        lines += ["", "environments (env=…):", *_columns(environments())]
    lines += ["", "settings most used (--show-config prints all of them):"]
    usual, examples = (USUAL, EXAMPLES) if schema is RunConfig else (PRETRAIN_USUAL, PRETRAIN_EXAMPLES)
    examples = CALIBRATE_EXAMPLES if command == "calibrate" else examples
    defaults = schema()
    for key in usual:
        value = functools.reduce(getattr, key.split("."), defaults)
        default = "unset" if value in (None, []) else str(value).lower() if isinstance(value, bool) else value
        choices = fields[key].metadata["choices"]
        about = fields[key].metadata["help"] + (f" ({'|'.join(choices)})" if choices else "")
        lines.append(f"  {key + '=':<20} {about} [{default}]")
    lines += ["", "examples:"]
    return "\n".join([*lines, *(f"  python -m agents.{command} {example}" for example in examples)])


def _columns(names: list[str], width: int = 100) -> list[str]:
    step = max(map(len, names)) + 2
    per_line = max(1, width // step)
    rows = [names[start : start + per_line] for start in range(0, len(names), per_line)]
    return ["  " + "".join(name.ljust(step) for name in row).rstrip() for row in rows]
