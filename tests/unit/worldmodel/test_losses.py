"""Terms against their definitions."""

import pytest
import torch

from worldmodel import ModelError, build
from worldmodel.diagnostics import latent_std, participation_rank
from worldmodel.losses import (
    Graded,
    SIGReg,
    autoencoding,
    change,
    cosine,
    covariance,
    infonce,
    masked_mean,
    mse,
    multiples,
    reconstruction,
    smooth_l1,
    sparsity,
    variance,
)


def graded(prediction, answer, latents=None, valid=None):
    rows = prediction.shape[:2]
    latents = prediction if latents is None else latents
    valid = torch.ones(latents.shape[:2], dtype=torch.bool) if valid is None else valid
    one = torch.ones(rows)
    return Graded(prediction, answer, prediction, one, one, one, latents, valid)


def test_cosine_is_0_parallel_1_orthogonal_2_opposite():
    answer = torch.tensor([[[1.0, 0.0]] * 3])
    prediction = torch.tensor([[[5.0, 0.0], [0.0, 2.0], [-0.1, 0.0]]])
    torch.testing.assert_close(cosine()(graded(prediction, answer), None), torch.tensor([[0.0, 1.0, 2.0]]))


@pytest.mark.parametrize("term", [change(), cosine(), mse(), smooth_l1(), infonce()])
def test_terms_about_predictions_are_not_reduced(term):
    assert term(graded(torch.randn(4, 3, 8), torch.randn(4, 3, 8)), None).shape == (4, 3)


def test_change_counts_in_units_of_what_changes_and_only_where_rows_exist():
    answer = torch.randn(6, 4, 8)
    g = graded(torch.cat([answer[:, :1], answer[:, :-1]], 1), answer)  # the last answer, said again
    said = change()(g, None)
    torch.testing.assert_close(said[:, 1:].mean(), torch.tensor(1.0))
    tiny = graded(g.prediction * 1e-2, answer * 1e-2)
    torch.testing.assert_close(change()(tiny, None), said)
    weight = torch.ones(6, 4)
    weight[2, 2:] = 0
    wild = answer.index_put((torch.tensor(2), torch.tensor(3)), torch.full((8,), 1e3))
    one, other = (change()(g._replace(answer=a, weight=weight), None) * weight for a in (answer, wild))
    torch.testing.assert_close(one, other)
    with pytest.raises(ModelError, match="several transitions"):
        change()(graded(answer[:, :1], answer[:, :1]), None)


def test_infonce_matches_a_loop_and_ignores_answers_that_do_not_exist():
    p, a = torch.randn(4, 2, 8), torch.randn(4, 2, 8)
    g = graded(p, a)
    g = g._replace(weight=torch.tensor([[1.0, 1], [1, 1], [1, 0], [1, 1]]))
    value = infonce(temperature=0.5)(g, None)
    for b in range(4):
        others = [0, 1, 3] if b != 2 else [0, 1, 2, 3]
        scores = torch.stack([torch.cosine_similarity(p[b, 1], a[c, 1], dim=0) / 0.5 for c in others])
        torch.testing.assert_close(value[b, 1], -scores.log_softmax(0)[others.index(b)])


def test_a_masked_mean_ignores_what_does_not_exist():
    assert masked_mean(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])) == 3.0
    assert masked_mean(torch.ones(3), torch.zeros(3)) == 0.0


def test_variance_and_covariance_see_collapse_and_copies_but_not_padding():
    z = torch.randn(64, 4, 6) * 2
    assert variance()(graded(z, z), None) < 0.01
    assert variance()(graded(z * 0, z), None) > 0.99
    copied = z[..., :1].expand_as(z)
    assert covariance()(graded(copied, z), None) > 10 * covariance()(graded(z, z), None)
    valid = torch.ones(64, 4, dtype=torch.bool)
    valid[:, 3] = False
    spoilt = z.clone()
    spoilt[:, 3] = 1e3
    for term in (variance(floor=3.0), covariance(), SIGReg(6)):
        torch.testing.assert_close(
            term(graded(z, z, z, valid), None), term(graded(z, z, spoilt, valid), None), atol=1e-5, rtol=1e-5
        )


def test_sigreg_prefers_the_normal_distribution():
    term = SIGReg(6, slices=64)
    normal = torch.randn(512, 4, 6)
    values = [term(graded(z, z), None) for z in (normal, normal * 3, normal * 0, normal.sign() * 1.0)]
    assert values[0] < 1e-2 < min(values[1:3])
    assert values[0] < values[3]


def test_multiples_of_an_angle_are_those_of_its_definition():
    angle = torch.cat([torch.linspace(-9.0, 9.0, 1001), torch.tensor([0.0, torch.pi, 100.0, -1e3])])
    for found, function in zip(multiples(angle, 13), (torch.cos, torch.sin), strict=True):
        true = torch.stack([function(k * angle.double()) for k in range(13)])
        torch.testing.assert_close(torch.stack(found).double(), true, atol=1e-5, rtol=0)


def test_diagnostics_tell_collapse_from_spread():
    one = torch.randn(200, 1) @ torch.randn(1, 8)
    full = torch.randn(2000, 8)
    assert latent_std(torch.ones(9, 4)) == 0
    assert participation_rank(torch.ones(9, 4)) == 0
    assert abs(participation_rank(one) - 1) < 0.01
    assert 7.5 < participation_rank(full) < 8.01


def decoded_model(entries=5, latent=8):
    """A world model that decodes its latents, and the objective that teaches it to."""
    return build(
        {
            "encoder": {
                "name": "mlp",
                "hidden": [16],
                "latent": latent,
                "scaling": "none",
                "normaliser": "none",
            },
            "aggregator": {"name": "none"},
            "predictor": {"name": "mlp", "hidden": [16]},
            "target": {"name": "input"},
            "heads": {"decoder": {"hidden": [16]}},
            "terms": {"reconstruction": {"weight": 1.0}, "autoencoding": {"weight": 1.0}},
        },
        {
            "observation": {"state": {"shape": [entries], "dtype": "float32"}},
            "action": {"kind": "continuous", "size": 2},
        },
        seed=0,
    )


def test_what_is_decoded_is_held_against_the_input():
    model = decoded_model().model
    latents, prediction, answer = torch.randn(3, 4, 8), torch.randn(3, 3, 8), torch.randn(3, 3, 5)
    g = graded(prediction, answer, latents)
    expected = (model.decoder(prediction) - answer).square().mean(-1)
    assert torch.equal(reconstruction()(g, model), expected)
    present = (model.decoder(latents[:, 1:]) - answer).square().mean(-1)
    assert torch.equal(autoencoding()(g, model), present)
    with pytest.raises(ModelError, match="next_step"):
        autoencoding()(g._replace(latents=latents[:, :3]), model)


def test_reconstruction_learns_to_say_what_will_be_seen():
    objective = decoded_model()
    generator, no = torch.Generator().manual_seed(0), torch.zeros(64, 2, dtype=torch.bool)
    optimiser = torch.optim.Adam(objective.trainable(), 3e-3)
    losses = []
    for _ in range(300):
        x, done = (torch.randn(64, size, generator=generator) for size in (5, 2))
        ahead = 0.5 * x.roll(1, 1) + done.repeat(1, 3)[:, :5]
        batch = {
            "state": torch.stack([x, ahead], 1),
            "prev_action": torch.stack([torch.zeros_like(done), done], 1),
            "reward": torch.zeros(64, 2),
            "terminated": no,
            "is_first": no,
            "valid": ~no,
        }
        loss, metrics = objective(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(metrics)
    for name in ("loss/reconstruction", "loss/autoencoding"):
        assert losses[-1][name] < 0.2 * losses[0][name]


def noisy_model(weight):
    """A model that is to foretell two entries that answer to actions, among thirty of noise."""
    return build(
        {
            "encoder": {"name": "mlp", "hidden": [32], "latent": 16, "scaling": "none"},
            "aggregator": {"name": "none"},
            "predictor": {"name": "mlp", "hidden": [32]},
            "target": {"name": "online"},
            "heads": {"reward": {}},
            "terms": {"mse": {"weight": 1.0}, "reward": {"weight": 1.0}, "sparsity": {"weight": weight}},
        },
        {
            "observation": {"state": {"shape": [32], "dtype": "float32"}},
            "action": {"kind": "continuous", "size": 2},
        },
        seed=0,
    )


def test_inputs_that_nothing_needs_fade():
    draw = torch.Generator().manual_seed(0)
    no = torch.zeros(512, 2, dtype=torch.bool)
    done, noise = torch.randn(512, 2, generator=draw), torch.randn(512, 2, 30, generator=draw)
    before = torch.randn(512, 2, generator=draw)
    batch = {
        "state": torch.cat([torch.stack([before, 0.5 * before + done], 1), noise], -1),
        "prev_action": torch.stack([torch.zeros_like(done), done], 1),
        "reward": torch.stack([torch.zeros(512), before.sum(-1)], 1),
        "terminated": no,
        "is_first": no,
        "valid": ~no,
    }
    part = {}
    for weight in (0.0, 0.03):
        objective = noisy_model(weight)
        optimiser = torch.optim.Adam(objective.trainable(), 3e-3)
        for _ in range(300):
            loss, _ = objective(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        sizes = objective.model.encoder.input_weights().detach().norm(dim=0)
        part[weight] = float(sizes[2:].mean() / sizes[:2].mean())
    assert part[0.0] > 0.2  # learned by heart
    assert part[0.03] < 0.05


def test_sparsity_is_the_sum_over_inputs_of_their_weights_size():
    model = noisy_model(1.0).model
    weights = model.encoder.input_weights()
    assert weights.shape == (32, 32)
    expected = sum(weights[:, k].square().sum().sqrt() for k in range(32))
    torch.testing.assert_close(sparsity()(None, model), expected)
