"""Measure where the time goes: python -m agents.bench env=dmc_walker."""

import json
import sys
import time
from typing import Any

from agents.cli import run_command


def bench(cfg: Any) -> int:
    """Print env, render, sample, act, update and plan times beside the floor each could reach."""
    from agents.assembly import build_agent, choose_device, set_threads
    from agents.benchmarks import collection, drawing, learning, looping, planning
    from agents.rollouts import facts

    device, threads = choose_device(cfg.device), set_threads(cfg.trainer.threads)
    spec = facts(cfg.env)
    print(f"{spec.name} on {device} with {threads} thread{'s' * (threads > 1)}")
    rows: dict[str, float] = {}
    agent = build_agent(cfg, spec, device)
    for measure in (collection, drawing, learning, planning, looping):
        started = time.perf_counter()
        for name, value, unit, about in measure(cfg, spec, agent, device):
            rows[name] = value
            print(f"  {name:<28} {value:12,.3f} {unit:<10} {about}", flush=True)
        rows[f"bench/{measure.__name__}_took_s"] = round(time.perf_counter() - started, 1)
    print(json.dumps(rows))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("bench", bench, argv)


if __name__ == "__main__":
    sys.exit(main())
