"""R15: termination has no future and truncation does not take one away: values are right to 1e-3."""

import pytest
import torch

from agents.replay import make_replay
from agents.returns import bootstrap_rows, n_step
from envs import make_batch
from envs.toy import Ring

DISCOUNT = 0.8
SIZE = 6


def replayed(end, choose, n):
    """A replay of steps around a ring whose episodes end early and often, by `choose(place, generator)`."""
    env = make_batch({"kind": "toy", "task": "ring", "kwargs": {"end": end, "length": 7}}, 16, seed=0)
    fields = {key: (array.shape, array.dtype) for key, array in env.facts.observation.items()}
    replay = make_replay(fields, 2, capacity=20_000, num_envs=16, window=n + 3, batch=512)
    generator, step = torch.Generator().manual_seed(0), env.reset()
    for _ in range(200):
        step["action"] = torch.nn.functional.one_hot(choose(step["state"].argmax(-1), generator), 2).float()
        done, step = env.step_and_maybe_reset(step)
        replay.extend(done)
    return replay


@pytest.mark.parametrize("end", ["terminate", "truncate"])
@pytest.mark.parametrize(("n", "optimal"), [(1, False), (3, True), (5, True)])
def test_a_table_learns_the_true_values_from_real_windows(end, n, optimal):
    """Random steps for one-step returns; the best ones for longer returns, which are of who acted."""
    exact = torch.as_tensor(Ring(end=end).optimal_q(DISCOUNT), dtype=torch.float64)

    def choose(place, generator):
        return exact[place].argmax(-1) if optimal else torch.randint(2, place.shape, generator=generator)

    replay = replayed(end, choose, n)
    table, seen = torch.zeros(SIZE, 2, dtype=torch.float64), torch.zeros(SIZE, 2, dtype=torch.bool)
    for _ in range(60):
        batch = replay.sample()
        place, valid = batch["state"].argmax(-1), batch["valid"]
        future = place.gather(1, bootstrap_rows(valid, n))
        value = table[future].amax(-1) if not optimal else table[future, exact[future].argmax(-1)]
        target = n_step(batch["reward"].double(), batch["terminated"], valid, value, DISCOUNT, n)
        action = batch["prev_action"][:, 1:].argmax(-1)
        at = place[:, :-1][target.mask > 0], action[target.mask > 0]
        table[at] = target.returns[target.mask > 0]  # deterministic: every answer for a pair is the same
        seen[at] = True
    assert seen.sum() >= (5 if optimal else 10)
    assert (table - exact)[seen].abs().max() < 1e-3


def test_the_value_of_the_reset_after_an_end_is_never_taken():
    """Bootstrapping looks at the last row of its own episode, not at the first of the next."""
    replay = replayed("truncate", lambda place, g: torch.randint(2, place.shape, generator=g), 3)
    for _ in range(20):
        batch = replay.sample()
        rows, valid = bootstrap_rows(batch["valid"], 3), batch["valid"]
        first = batch["is_first"]
        assert valid.gather(1, rows).all()
        assert not (first[:, 1:] & valid[:, 1:]).any()  # a window never goes on into another episode
