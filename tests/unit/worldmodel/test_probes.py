"""Heads find what is there, do not find what is not, and never see an episode on both sides."""

import pytest
import torch

from worldmodel.probes import probe, retrieval, score, split

EPISODES, ROWS = 20, 40


@pytest.fixture
def rows():
    """Episode numbers and features of many rows."""
    generator = torch.Generator().manual_seed(0)
    episodes = torch.arange(EPISODES).repeat_interleave(ROWS)
    return episodes, torch.randn(len(episodes), 8, generator=generator)


def test_no_episode_is_in_two_parts_and_none_is_left_out(rows):
    episodes, _ = rows
    parts = [set(episodes[mask].tolist()) for mask in split(episodes)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == EPISODES
    assert all(parts)


def test_too_few_episodes_are_refused():
    with pytest.raises(ValueError, match="at least 4 episodes"):
        split(torch.tensor([0, 0, 1, 2]))


def test_a_linear_head_finds_what_is_linear_and_only_a_network_finds_a_product(rows):
    episodes, x = rows
    parts = split(episodes)
    assert probe(x, x[:, :2] - 3 * x[:, 2:4] + 5, parts).uniform > 0.999
    product = (x[:, 0] * x[:, 1])[:, None]
    assert probe(x, product, parts).uniform < 0.1
    assert probe(x, product, parts, head="mlp").uniform > 0.7


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_labels_that_only_an_episode_knows_are_not_learned_by_heart(rows, head):
    """Features that name the episode explain its label where they were fitted, and nothing elsewhere."""
    episodes, _ = rows
    features = torch.nn.functional.one_hot(episodes).float()
    labels = torch.randn(EPISODES, 1, generator=torch.Generator().manual_seed(1))[episodes]
    assert probe(features, labels, split(episodes), head=head).uniform < 0.2


def test_scores_of_the_truth_the_mean_and_a_constant_label():
    truth = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    assert score(truth, truth).uniform == 1.0
    assert score(truth.mean(0).expand_as(truth), truth).uniform == 0.0
    assert torch.tensor(score(truth[:, 1:], truth[:, 1:]).uniform).isnan()


def test_a_weighted_score_counts_what_varies():
    truth = torch.stack([torch.arange(5.0), 10 * torch.arange(5.0)], 1)
    guess = torch.stack([truth[:, 0], torch.full((5,), 20.0)], 1)
    assert score(guess, truth).uniform == pytest.approx(0.5)
    assert score(guess, truth).weighted == pytest.approx(1 / 101)


def test_ranks_of_the_right_the_wrong_and_the_undecided():
    truth = torch.eye(10)
    assert retrieval(truth, truth) == {"mrr": 1.0, "hit@1": 1.0, "hit@5": 1.0}
    assert retrieval(truth.roll(1, 0), truth)["hit@1"] == 0.0
    alike = retrieval(torch.ones(10, 10), truth)
    assert alike["mrr"] == pytest.approx(1 / 5.5)
    assert alike["hit@5"] == 0.0


def test_probing_draws_no_random_numbers_of_others(rows):
    episodes, x = rows
    before = torch.get_rng_state()
    first, second = (probe(x, x[:, :1], split(episodes), head="mlp") for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_head_is_refused(rows):
    episodes, x = rows
    with pytest.raises(ValueError, match="linear or mlp"):
        probe(x, x, split(episodes), head="tree")
