"""The schema of a pre-training run: a world model learned from pictures or tables, without an agent."""

from dataclasses import dataclass, field
from typing import Any

from agents.options import UserError, option
from agents.schema import LoggerConfig, RunSettings

KINDS = ("objects", "saccades", "table", "states")
COLUMNS = ("table", "states")  # kinds whose columns are asked for


@dataclass
class DataConfig:
    """What is looked at; `data=NAME` fills it."""

    kind: str = option(
        "objects", "turned objects, glances at scenes, rows of a table, or states", choices=KINDS
    )
    tier: str = option("t1", "how much of it: t0 for tests, t1 for a CPU", choices=("t0", "t1", "t2", "t3"))
    size: int | None = option(None, "side of an object's picture (default: the tier's)", low=32, high=128)
    root: str = option("data", "folder of the stores, drawn once")
    colour: bool = option(False, "objects: actions also say how the hues of floor and light change")
    saliency: bool = option(True, "saccades: look where contrast is, not anywhere")
    inhibition: bool = option(True, "saccades: never look where one has just looked")
    table: str = option("breast_cancer", "table: a CSV file, or one that scikit-learn brings along")
    label: str | None = option(None, "table: the column that heads are asked for (default: the last)")
    contents: str | None = option(None, "table: SHA-256 of the file (found out: another is another run)")
    run: str | None = option(None, "states: a run whose replay is learned from (default: random play)")
    env: str = option("dmc_walker", "states: what is played at random")
    rows: int = option(20_000, "states: how much is played", low=100, high=10_000_000)
    steps: int = option(1, "states: rows in a row whose columns make one table", low=1, high=16)


@dataclass
class LearningConfig:
    """How it is learned; every budget is in updates."""

    updates: int = option(3000, "gradient steps (0: the model as it was built)", low=0)
    batch: int = option(256, "sequences per update", low=2)
    observed: int = option(3, "pictures: views before the one that is predicted", low=1, high=16)
    lr: float = option(1e-3, "learning rate after the warm-up", low=0.0)
    lr_first: float = option(1e-5, "learning rate of the first update", low=0.0)
    lr_last: float = option(1e-5, "learning rate that the cosine ends at", low=0.0)
    warmup: int = option(150, "updates of linear warm-up", low=0)
    weight_decay: float = option(1e-4, "decoupled weight decay of matrices", low=0.0)
    log_every: int = option(50, "updates between rows of metrics", low=1)
    checkpoint_every: int = option(500, "updates between checkpoints (0: only at the end)", low=0)
    keep: int = option(2, "checkpoints kept", low=2)
    compile: bool = option(False, "compile the step (minutes the first time)")
    threads: int = option(1, "torch threads", low=1, high=1024)


@dataclass
class StudyConfig:
    """Runs that are compared: every variant with every seed, one after the other."""

    seeds: int = option(3, "seeds of each variant", low=1, high=100)
    only: list[str] = option(text="variants to run, as in [both,none] (default: all)", factory=list)
    variants: dict[str, dict[str, Any]] = option(
        text="names, and the settings that each changes", factory=dict
    )


@dataclass
class PretrainConfig:
    """Everything that one pre-training run is made from."""

    seed: int = option(0, "seed of everything random", low=0, high=2**31 - 1)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    variant: str = option("", "name of this run in a study")
    # One folder deeper than the runs of agents, or "last" might mean one of these.
    run: RunSettings = field(default_factory=lambda: RunSettings(root="runs/pretrain"))
    data: DataConfig = field(default_factory=DataConfig)
    worldmodel: dict[str, Any] = option(text="parts of the world model, which checks them", factory=dict)
    learning: LearningConfig = field(default_factory=LearningConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def check_pretraining(config: PretrainConfig) -> None:
    """Raise UserError for settings that contradict each other."""
    if config.data.kind != "objects" and (config.data.colour or config.data.size):
        name = "colour" if config.data.colour else "size"
        raise UserError(f"data.{name} is of objects, and data.kind={config.data.kind}", f"drop data.{name}")
    if config.data.kind == "saccades" and config.data.tier == "t3":
        raise UserError("there is no data.tier=t3 of saccades", "choose data.tier=t0, t1 or t2")
    taken = (config.worldmodel.get("encoder") or {}).get("steps", 1)
    if config.data.steps != taken or (taken > 1 and config.data.kind != "states"):
        text = f"data.kind={config.data.kind} has tables of data.steps={config.data.steps} rows, and"
        fix = "set both alike with data.kind=states, or leave both out: experiment=table_walker data.steps=4"
        raise UserError(f"{text} worldmodel.encoder.steps={taken}", fix)
    asked = (config.worldmodel.get("views") or {}).get("name")
    if (asked == "hidden_columns") != (config.data.kind in COLUMNS):
        fix = "worldmodel=t_jepa" if config.data.kind in COLUMNS else "worldmodel=seq_jepa_views"
        raise UserError(
            f"worldmodel.views={asked} does not ask of data.kind={config.data.kind}", f"use {fix}"
        )
    unknown = [name for name in config.study.only if name not in config.study.variants]
    if unknown:
        names = ", ".join(config.study.variants) or "none"
        raise UserError(f"study.only={unknown[0]} is no variant", f"choose among {names}")
    if config.study.variants and config.run.dir:
        text = f"a study of {len(config.study.variants)} variants does not fit one run.dir"
        raise UserError(text, "give run.root=…, which holds a folder of each run")
