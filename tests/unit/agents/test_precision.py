"""bfloat16 where it was asked for or is faster, in the update alone; a run keeps what it began with."""

import pytest
import torch

from agents.benchmarks import learning
from agents.precision import choose_precision, measured_ms
from tests.contract.test_agent import batch_of, build, observation

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("plain", "short", "chosen"), [(2.0, 1.0, "bfloat16"), (1.2, 1.0, "float32"), (1.0, 12.0, "float32")]
)
def test_auto_takes_what_is_clearly_faster_here(monkeypatch, plain, short, chosen):
    monkeypatch.setattr("agents.precision.measured_ms", lambda *_: (plain, short))
    assert choose_precision(256, 256, CPU) == chosen
    assert choose_precision(256, 64, CPU) == "float32"  # too small to be measured well
    said = []
    cfg, env, agent = build("continuous", "agent.hidden=256")
    agent.say = said.append
    agent.update(batch_of(cfg, env))
    assert agent.precision == chosen
    assert len(said) == (chosen == "bfloat16")


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_asked_for_is_not_measured(monkeypatch, wanted):
    monkeypatch.delattr("agents.precision.measured_ms")
    cfg, env, agent = build("continuous", f"agent.precision={wanted}")
    agent.update(batch_of(cfg, env))
    assert agent.precision == wanted


def test_nothing_is_measured_before_something_is_learned(monkeypatch):
    """Evaluations, and the process that collects, never learn."""
    measured = []
    monkeypatch.setattr("agents.precision.measured_ms", lambda *_: measured.append(1) or (1.0, 1.0))
    cfg, env, agent = build("continuous", "agent.hidden=256")
    agent.act(agent.start(3), observation(env), explore=True)
    assert not measured
    for _ in range(2):
        agent.update(batch_of(cfg, env))
    assert len(measured) == 1
    assert agent.precision == "float32"


def test_the_floor_of_an_update_is_its_own_products_not_those_that_chose_the_format(monkeypatch):
    monkeypatch.setattr("agents.precision.WORTH", 1e9)  # measured, and float32 then
    floors = []
    for precision in ("auto", "float32"):
        cfg, env, agent = build("continuous", "agent.hidden=256", f"agent.precision={precision}")
        rows = {name: about for name, _, _, about in learning(cfg, env.facts, agent, CPU)}
        assert "float32" in rows["update"]
        floors.append(rows["update/floor"])
    assert floors[0] == floors[1]


def test_measuring_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    assert all(ms > 0 for ms in measured_ms(8, 8, CPU))
    assert torch.equal(torch.rand(4), wanted)


@pytest.mark.parametrize("case", ["continuous", "discrete"])
def test_an_update_in_bfloat16_descends_the_same_slope_and_keeps_float32_weights(case):
    slopes = []
    for precision in ("float32", "bfloat16"):
        cfg, env, agent = build(case, f"agent.precision={precision}")
        torch.manual_seed(1)
        with torch.no_grad():  # fresh networks have zeros that hide most gradients
            for parameter in (*agent.model.parameters(), *agent.critic.parameters()):
                parameter += 0.05 * torch.randn_like(parameter)
        batch = batch_of(cfg, env)
        metrics = agent.update(batch)
        assert all(value.isfinite() for value in metrics.values())
        assert all(weight.dtype != torch.bfloat16 for weight in agent.weights().values())
        slopes.append(torch.cat([flat.whole.grad for flat in agent.groups]))
    assert torch.cosine_similarity(*slopes, dim=0) > 0.98
    assert not torch.equal(*slopes)


def test_acting_is_in_float32_whatever_the_update_is():
    actions = []
    for precision in ("float32", "bfloat16"):
        _, env, agent = build("continuous, planned", f"agent.precision={precision}")
        actions.append(agent.act(agent.start(3), observation(env), explore=False)[1])
    assert torch.equal(*actions)


def test_a_resumed_run_keeps_the_precision_that_it_began_with():
    _, _, agent = build("continuous", "agent.precision=bfloat16")
    _, _, other = build("continuous", "agent.precision=float32")
    other.load_state_dict(agent.state_dict())
    assert other.precision == "bfloat16"


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiles for 90 s, beside other work for 300
def test_a_compiled_update_in_bfloat16_is_believed():
    said = []
    cfg, env, agent = build("continuous", "agent.precision=bfloat16", "agent.compile=true")
    agent._losses.say = said.append
    agent.update(batch_of(cfg, env))
    assert agent._losses.run is not agent._losses.plain
    assert len(said) == 1
