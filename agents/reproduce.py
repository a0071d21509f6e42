"""See an update that failed once more, from what its run kept of it, and where its first odd number is.

python -m agents.reproduce run=last
python -m agents.reproduce run=runs/dmc_walker/s0-20261121-101500-3f2a9c1b/crash/000012346
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.cli import UserError, option, run_command


@dataclass
class Reproduce:
    """Compute a failed update again, from the weights before it and its batch."""

    run: str = option(text="run directory with a crash/ folder, a folder in there, or 'last'")
    entry: str | None = option(
        None, "your environment factory, if the run used one: it is code, so name it again"
    )


def reproduce(options: Reproduce) -> int:
    """Compute a failed update again; exit code 1 where it does not fail again."""
    import torch

    from agents import checkpoint, crash
    from agents.loading import load_run

    path = find_bundle(options.run)
    loaded = load_run(str(path), entry=options.entry)
    saved = checkpoint.load(path, only={"update", "state"})
    state, batch = saved.documents["state"], saved.tensors["update"]
    recorded = {name: float(text) for name, text in state["numbers"].items()}
    loaded.agent.precision = state["precision"]
    update = state["progress"]["counters"]["updates"] + 1
    print(f"update {update:,}, at {loaded.frames:,} frames: {crash.say(recorded)}")
    noise = batch.pop("noise")
    batch.setdefault("weight", torch.ones_like(batch["reward"]))  # older ones have none
    with crash.odd_outputs(loaded.agent.modules()) as outputs:
        try:
            loaded.agent.slopes(batch, noise)
        except crash.NotFinite as error:
            found = error.numbers
        else:
            print("not so here, on a CPU: another version of torch, or a GPU's doing?")
            return 1
    for name, value in found.items():
        mark = "" if math.isfinite(value) else "  <- not finite"
        print(f"  {name:24} {value:>12.5g}   (recorded {recorded[name]:.5g}){mark}")
    print(f"begins in: {beginning(batch, loaded.agent, outputs)}")
    return 0


def beginning(batch: Mapping[str, Any], agent: Any, outputs: list[str]) -> str:
    """The first thing on the way from the batch to the gradients that is not finite."""
    from agents.crash import all_finite

    for kind, tensors in (("the batch", batch), ("the weights", agent.weights())):
        for name, value in tensors.items():
            if not all_finite([value]):
                return f"{kind}, {name}"
    if outputs:
        return f"the output of {outputs[0]}"
    for owner, module in agent.modules().items():
        for name, weight in module.named_parameters():
            if weight.grad is not None and not all_finite([weight.grad]):
                sizes = {key: float(value.double().abs().max()) for key, value in batch.items()}
                size, largest = max((size, key) for key, size in sizes.items())
                return (
                    f"a loss, or the gradient of {owner}.{name} (largest in the batch: {largest}, {size:.3g})"
                )
    return "a loss"


def find_bundle(text: str) -> Path:
    """The folder of a failed update: the one named, or the newest of a run."""
    from agents import checkpoint, crash
    from agents.rundir import find_run

    found = find_run(text)
    if found.checkpoint is not None and found.checkpoint.parent.name == crash.FOLDER:
        return found.checkpoint
    newest = checkpoint.latest(found.run / crash.FOLDER) if found.run else None
    if newest is None:
        raise UserError(f"run={text} keeps no failed update", "name a run that has a crash/ folder")
    return newest


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return run_command("reproduce", reproduce, argv, options=Reproduce)


if __name__ == "__main__":
    sys.exit(main())
