"""n-step returns: what bootstraps, what does not, and where a window ends."""

import pytest
import torch

from agents.returns import bootstrap_rows, discount_for, rewarded_share
from agents.returns import n_step as n_step_at_rows


def n_step(reward, terminated, valid, value, discount, n):
    """As the agent does it, from a value of every row."""
    return n_step_at_rows(reward, terminated, valid, value.gather(1, bootstrap_rows(valid, n)), discount, n)


def slow_n_step(reward, terminated, valid, value, discount, n):
    """The definition, one row at a time."""
    batch, time = reward.shape
    out = torch.zeros(batch, time - 1)
    for b in range(batch):
        last = int(valid[b].sum()) - 1
        for t in range(time - 1):
            if t >= last:
                continue
            end = min(t + n, last)
            total = sum(discount ** (k - t - 1) * reward[b, k] for k in range(t + 1, end + 1))
            if not terminated[b, end]:
                total = total + discount ** (end - t) * value[b, end]
            out[b, t] = total
    return out


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("last", [1, 2, 4, 6])
@pytest.mark.parametrize("ends", ["terminated", "truncated", "goes on"])
def test_n_step_equals_its_definition_at_every_kind_of_end(n, last, ends):
    time = 7
    reward, value = torch.randn(3, time), torch.randn(3, time)
    valid = (torch.arange(time) <= last).expand(3, -1)
    terminated = torch.zeros(3, time, dtype=torch.bool)
    terminated[:, last:] = ends == "terminated"  # padding repeats the last valid row
    got = n_step(reward, terminated, valid, value, 0.9, n)
    torch.testing.assert_close(got.returns * got.mask, slow_n_step(reward, terminated, valid, value, 0.9, n))
    assert got.mask.sum(1).tolist() == [last] * 3


def test_a_truncated_last_row_bootstraps_and_a_terminated_one_does_not():
    reward, value = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 10.0]])
    valid, ended = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[False, True]])
    assert n_step(reward, ended, valid, value, 0.5, 1).returns.item() == 1.0
    assert n_step(reward, ~ended & ended, valid, value, 0.5, 1).returns.item() == 6.0


def test_padding_has_no_influence_on_returns():
    reward, value = torch.randn(2, 6), torch.randn(2, 6)
    valid = (torch.arange(6) <= 2).expand(2, -1)
    terminated = torch.zeros(2, 6, dtype=torch.bool)
    before = n_step(reward, terminated, valid, value, 0.9, 3)
    reward[:, 3:], value[:, 3:] = 1e6, -1e6
    after = n_step(reward, terminated, valid, value, 0.9, 3)
    assert torch.equal(before.returns * before.mask, after.returns * after.mask)


def test_the_discount_looks_a_share_of_an_episode_ahead():
    assert discount_for(1000, 2, 15) == pytest.approx(0.97)
    assert discount_for(1000, 2, 5) == pytest.approx(0.99)
    assert discount_for(1000, 1, 5) == 0.995
    assert discount_for(1000, 1, 2) == 0.995
    assert discount_for(50, 1, 5) == 0.95
    assert discount_for(None, 1, 5) == discount_for(None, 1, 15) == 0.99


def test_the_share_of_rewarded_rows_counts_preferred_windows_less():
    reward = torch.tensor([[1.0, 0.0, 9.0], [0.0, 0.001, 0.0], [1.0, 1.0, 1.0]])
    valid = torch.tensor([[True, True, False], [True, True, True], [True, True, True]])
    alike = torch.ones_like(reward)
    assert rewarded_share(reward, valid, alike) == pytest.approx(4 / 8)
    preferred = torch.tensor([[4.0], [1.0], [4.0]]).expand_as(reward)
    assert rewarded_share(reward, valid, preferred) == pytest.approx((0.25 + 0.75) / (0.5 + 3 + 0.75))
    assert rewarded_share(reward * 0, valid, alike) == 0
    assert rewarded_share(reward, valid, alike * 0).isfinite()
