"""Pre-train a world model without an agent: python -m agents.pretrain experiment=objects."""

import copy
import hashlib
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agents.cli import UserError, run_command

EXAMINATION = "examination.json"


def pretrain(cfg: Any) -> int:
    """Learn every run of the study that is not learned yet, examine it, and print what was found."""
    from agents.claims import read_one, report
    from agents.progress import counting
    from agents.stopping import Stopper

    with Stopper() as stop:
        runs = []
        for one in plan(cfg):
            with counting() as tell:
                runs.append(learn(one, stop, tell))
            if stop():
                print("stopped; the same command goes on")
                return stop.exit_code
    print("\n".join(report([read_one(run) for run in runs])))
    return 0


def plan(cfg: Any) -> list[Any]:
    """Every run of a study, or the one run of a configuration that compares nothing."""
    settle(cfg.data)
    study = cfg.study
    if not study.variants:
        return [cfg]
    names = study.only or list(study.variants)
    # Seeds outermost: whoever stops half way has compared all variants on some seeds.
    return [vary(cfg, name, cfg.seed + k) for k in range(study.seeds) for name in names]


def settle(data: Any) -> None:
    """Fix what a name may not mean tomorrow: the checkpoint of a run, the bytes of a table."""
    from agents.rundir import find_run

    if data.kind == "states" and data.run:
        found = find_run(data.run)
        data.run = str((found.checkpoint or found.run or Path(data.run)).resolve())
    if data.kind == "table" and (path := Path(data.table)).is_file():
        data.contents = hashlib.sha256(path.read_bytes()).hexdigest()


def vary(cfg: Any, name: str, seed: int) -> Any:
    """One run of a study: a copy of the configuration with a variant's settings and a seed."""
    from agents.pretrain_schema import check_pretraining
    from agents.schema import check_values

    one = copy.deepcopy(cfg)
    one.variant, one.seed = name, seed
    for key, value in (cfg.study.variants[name] or {}).items():
        *path, leaf = key.split(".")
        place: Any = one
        for part in path:
            place = place.get(part) if isinstance(place, dict) else getattr(place, part, None)
        known = leaf in place if isinstance(place, dict) else hasattr(place, leaf)
        if not known:
            raise UserError(
                f"study.variants.{name} sets {key}, which is no setting", "--show-config prints all"
            )
        if isinstance(place, dict):
            place[leaf] = value
        else:
            setattr(place, leaf, value)
    check_values(one)
    check_pretraining(one)
    return one


def learn(cfg: Any, stop: Any, tell: Any) -> Path:
    """Learn one run to its end, or to where it is stopped, and examine it: -> its directory."""
    from agents.config import config_dict, config_hash, save_yaml
    from agents.rundir import open_run

    name = data_name(cfg.data)
    about = {"config": config_dict(cfg), "dir": cfg.run.dir, "fresh": cfg.run.fresh, "device": cfg.device}
    with open_run(cfg.run.root, name, cfg.seed, config_hash(cfg), **about) as run, ExitStack() as closing:
        if (run.path / EXAMINATION).exists():
            return run.path
        print(f"{cfg.variant or 'run'}, seed {cfg.seed}: {run.path}", file=sys.stderr)
        save_yaml(cfg, run.path / "config.yaml")
        from agents.pretraining import Pretraining  # torch and MuJoCo load after every cheap check

        stop.impatient = True  # drawing pictures goes on where it stopped, whenever that is
        session = Pretraining(cfg, run, stop, closing, tell)
        stop.impatient = False
        if session.run():
            examined(session, tell)
        return run.path


def data_name(data: Any) -> str:
    """Name the folder of runs on the same data."""
    if data.kind == "table":
        return f"table_{Path(data.table).stem}"
    if data.kind == "states":
        from agents.rundir import find_run, read_record

        run = find_run(data.run).run if data.run else None
        return f"states_{read_record(run)['env'] if run else data.env}"
    return f"{data.kind}_{data.tier}"


def examined(session: Any, tell: Any) -> None:
    """Examine what was learned and keep the answers beside it."""
    from agents import durable

    cfg = session.cfg
    session.stop.impatient = True  # nothing of the run is lost while heads are fitted
    answers = session.lessons.examine(session.objective, cfg.seed, session.path, tell)
    session.stop.impatient = False
    found = {
        "variant": cfg.variant,
        "seed": cfg.seed,
        "updates": session.updates,
        "frames": session.frames,
        "metrics": answers,
    }
    durable.replace_file(session.path / EXAMINATION, json.dumps(found, indent=1, sort_keys=True).encode())


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("pretrain", pretrain, argv, load="load_pretraining")


if __name__ == "__main__":
    sys.exit(main())
