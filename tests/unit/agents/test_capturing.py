"""A captured update is the plain one bit for bit; here a tape of operations stands in for the CUDA graph."""

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from agents.assembly import build_agent
from agents.capturing import REHEARSALS, Captured
from agents.config import config_hash, load_config
from agents.loop import Averages
from agents.replay import make_replay
from envs import make_batch

CPU = torch.device("cpu")
WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::masked_select",
    "aten::is_nonzero",
}


class Tape(TorchDispatchMode):
    """Remembers the operations of some work and repeats them on the same memory, as a CUDA graph does.

    No Python runs again, so a number or a branch that should have changed stays as it was; and work that
    waits for a tensor is refused.
    """

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name, kwargs or {}
        if name in WAITS:
            raise RuntimeError(f"{name} waits for the GPU")
        outputs = func(*args, **kwargs)
        self.steps.append((func, args, kwargs, outputs))
        return outputs

    def play(self):
        for func, args, kwargs, outputs in self.steps:
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(outputs), pytree.tree_leaves(again), strict=True):
                if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes:
    """Records tapes; recording does the work at once, so the first replay has nothing left to do."""

    def __init__(self):
        self.rehearsed = self.recorded = self.replayed = 0

    def rehearse(self, work):
        self.rehearsed += 1
        return work()

    def record(self, work):
        tape = Tape()
        with tape:
            outputs = work()
        self.recorded, fresh = self.recorded + 1, True

        def replay():
            nonlocal fresh
            self.replayed += 1
            if not fresh:
                with torch.no_grad():
                    tape.play()
            fresh = False
            return outputs

        return replay


def captured(function, say=print):
    return Captured(function, CPU, say, "the update", Tapes())


def build(task="point_mass", *words):
    cfg = load_config([f"env=toy_{task}", "trainer=debug", "agent=policy", *words])
    env = make_batch({"kind": "toy", "task": task}, 3, seed=0)
    torch.manual_seed(0)
    return cfg, env, build_agent(cfg, env.facts, CPU)


def filled(cfg, env, decisions=40, capacity=600, device="cpu"):
    fields = {key: (array.shape, array.dtype) for key, array in env.facts.observation.items()}
    size, window = env.facts.action.size, cfg.agent.window + 1
    replay = make_replay(
        fields,
        size,
        capacity=capacity,
        num_envs=3,
        window=window,
        batch=cfg.agent.batch,
        sampler=cfg.replay.sampler,
        storage=cfg.replay.storage,
        device=device,
        captured=cfg.agent.capture,
    )
    collect(env, replay, decisions)
    return replay


def collect(env, replay, decisions):
    step = env.reset()
    for _ in range(decisions):
        step["action"] = torch.rand(3, env.facts.action.size) * 2 - 1
        done, step = env.step_and_maybe_reset(step)
        replay.extend(done)


def train(agent, replay, updates):
    """Update as the loop does; return all metrics, kept until the end."""
    seen = []
    for _ in range(updates):
        batch = replay.sample()
        seen.append(agent.update(batch))
        replay.update_priority(batch["index"], batch["priority"][:, 0])
    return seen


def assert_same(first, second):
    assert [pytree.tree_map(float, m) for m in first[0]] == [pytree.tree_map(float, m) for m in second[0]]
    one, two = first[1].state_dict(), second[1].state_dict()
    for (path, left), (_, right) in zip(
        pytree.tree_leaves_with_path(one), pytree.tree_leaves_with_path(two), strict=True
    ):
        same = torch.equal(left, right) if torch.is_tensor(left) else left == right
        assert same, pytree.keystr(path)


CASES = [
    ("point_mass",),
    ("identity",),
    ("point_mass", "replay=uniform"),
    (
        "point_mass",
        "worldmodel/target=moving_cosine",
        "worldmodel.target.steps=20",
        "worldmodel/action=batchnorm",
    ),
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_captured_update_is_the_plain_one_bit_for_bit(words):
    results = []
    for capture in (False, True):
        cfg, env, agent = build(*words)
        replay = filled(cfg, env)
        if capture:
            agent._learn = captured(agent.learn)
        results.append((train(agent, replay, 25), agent))
        if capture:
            recorder = agent._learn.recorder
            assert (recorder.rehearsed, recorder.recorded) == (REHEARSALS, 1)
            assert recorder.replayed == 25 - REHEARSALS
    assert_same(*results)


@pytest.mark.parametrize("words", [("point_mass",), ("point_mass", "replay=uniform")], ids=" ".join)
def test_a_captured_update_goes_on_bit_for_bit_after_a_checkpoint_is_loaded(words):
    results = []
    for capture in (False, True):
        cfg, env, agent = build(*words)
        replay = filled(cfg, env)
        _, _, saved = build(*words)
        train(saved, filled(cfg, env), 3)
        if capture:
            agent._learn = captured(agent.learn)
        train(agent, replay, 8)
        agent.load_state_dict(saved.state_dict())
        assert not capture or not agent._learn.recorded
        results.append((train(agent, replay, 8), agent))
    assert_same(*results)


@pytest.mark.slow
def test_nothing_compiles_after_the_rehearsals():
    """A recording may not compile, and inputs that are laid out otherwise would ask for it."""

    class Rerun(Tapes):
        def record(self, work):  # a tape cannot look into what is compiled
            return work

    compiled = []

    def backend(graph, inputs):
        compiled.append(agent._learn._rehearsed)
        return aot_eager(graph, inputs)

    from torch._dynamo.backends.debugging import aot_eager

    cfg, env, agent = build()
    agent._learn = Captured(agent.learn, CPU, print, "the update", Rerun())
    agent._losses = torch.compile(agent.losses, fullgraph=True, dynamic=False, backend=backend)
    train(agent, filled(cfg, env), REHEARSALS + 3)
    assert compiled == [1]


def test_weights_loaded_alone_are_the_ones_a_replay_reads():
    results = []
    for capture in (False, True):
        cfg, env, agent = build()
        replay = filled(cfg, env)
        if capture:
            agent._learn = captured(agent.learn)
        train(agent, replay, 6)
        agent.load_weights({k: v * 0.9 if v.is_floating_point() else v for k, v in agent.weights().items()})
        results.append((train(agent, replay, 6), agent))
        assert not capture or agent._learn.recorder.recorded == 1
    assert_same(*results)


@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_captured_sampling_draws_the_same_windows_before_and_after_the_ring_is_full(sampler):
    drawn = []
    for capture in (False, True):
        cfg, env, _ = build("point_mass", f"replay.sampler={sampler}")
        torch.manual_seed(1)
        replay = filled(cfg, env, decisions=15, capacity=90)
        if capture:
            replay._gather = captured(replay.gather)
            replay.draw.steady = True
        batches = []
        for _ in range(20):  # 30 rows a column: it wraps
            collect(env, replay, 3)
            batches.append(replay.sample())
            rows = replay.ring.startable.nonzero().flatten()[:5]
            replay.update_priority(rows, torch.rand(5))
        drawn.append(batches)
        assert not capture or replay._gather.recorder.recorded == 1
    for left, right in zip(*drawn, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys():  # noqa: SIM118
            assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_a_turn_of_training_hands_the_gpu_at_most_20_things_to_do(monkeypatch, sampler):
    class Count(TorchDispatchMode):
        """Counts operations that would be launched: neither views nor memory."""

        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if not func.is_view and not func._schema.name.startswith("aten::empty"):
                self.names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    class Silent(Tapes):
        """Replays nothing, so that only what happens around a graph is counted."""

        def record(self, work):
            outputs = work()
            return lambda: outputs

    cfg, env, agent = build("point_mass", f"replay.sampler={sampler}")
    replay, averages = filled(cfg, env), Averages()
    monkeypatch.setattr(type(replay.ring), "reach", replay.ring.reach)  # the CPU's own business
    agent._learn = Captured(agent.learn, CPU, print, "the update", Silent())
    replay._gather = Captured(replay.gather, CPU, print, "drawing batches", Silent())
    if sampler == "prioritized":
        replay.draw.steady = True
        replay._grade = Captured(replay.draw.grade, CPU, print, "setting priorities", Silent())
    graphs = 2 + (sampler == "prioritized")
    for turn in range(REHEARSALS + 2):
        with Count() as count:
            batch = replay.sample()
            averages.add(agent.update(batch))
            replay.update_priority(batch["index"], batch["priority"][:, 0])
        assert turn < REHEARSALS + 1 or len(count.names) + graphs <= 20, count.names


def test_results_belong_to_the_caller():
    double = captured(lambda x: {"twice": 2 * x})
    results = [double(torch.tensor([float(i)])) for i in range(8)]
    assert [r["twice"].item() for r in results] == [2.0 * i for i in range(8)]
    averages = Averages()
    for i in range(8):
        averages.add(double(torch.tensor(float(i))))
    assert averages.take() == {"twice": 7.0}


def test_other_shapes_or_names_are_recorded_anew():
    total = captured(lambda values: sum(v.sum() for v in values.values()))
    for keys, size in (("a", 3), ("ab", 3), ("ab", 5), ("bc", 5)):
        for step in range(REHEARSALS + 3):
            values = {key: torch.full((size,), float(step)) for key in keys}
            assert total(values).item() == step * size * len(keys)
    assert total.recorder.recorded == 4


def test_a_number_that_should_have_changed_is_frozen_in_the_recording():
    counter = iter(range(100))
    wrong = captured(lambda x: x + next(counter))
    seen = [wrong(torch.zeros(1)).item() for _ in range(REHEARSALS + 3)]
    assert seen == [0, 1, 2, 3, 3, 3], "or the tests above would prove nothing"


def test_work_that_waits_is_refused_with_the_reason_and_the_fix_and_goes_on_uncaptured():
    said = []
    waits = captured(lambda x: x * 2 if x.sum() > 0 else x, said.append)
    for step in range(8):
        assert waits(torch.full((2,), float(step))).tolist() == [2.0 * step] * 2
    assert len(said) == 1
    assert "waits for the GPU" in said[0]
    assert "agent.capture=false" in said[0]
    assert waits.recorder is None


def test_what_broke_a_recording_is_said_rather_than_that_it_ended():
    class Broken(Tapes):
        def record(self, work):
            try:
                raise RuntimeError("not permitted while capturing\nand more")
            finally:
                raise RuntimeError("the recording was invalidated")

    said = []
    identity = Captured(lambda x: x + 1, CPU, said.append, "the update", Broken())
    assert [identity(torch.tensor(i)).item() for i in range(6)] == [1, 2, 3, 4, 5, 6]
    assert len(said) == 1
    assert "(not permitted while capturing)" in said[0]


def test_an_error_of_the_function_reaches_the_caller():
    said = []
    wrong = captured(lambda x: {}[x.shape], said.append)
    with pytest.raises(KeyError):
        wrong(torch.zeros(2))
    assert not said


def test_without_a_gpu_nothing_is_captured_and_the_setting_changes_no_run():
    _, _, agent = build("point_mass", "agent.capture=true")
    assert agent._learn == agent.learn
    assert not any(group["capturable"] for group in agent.optimiser.param_groups)
    hashes = {config_hash(load_config(["env=toy_ring", f"agent.capture={x}"])) for x in ("true", "false")}
    assert len(hashes) == 1


def test_a_checkpoint_of_a_gpu_does_not_make_the_cpu_optimiser_capturable():
    _, _, agent = build()
    state = agent.state_dict()
    for group in state["optimiser"]["param_groups"]:
        group["capturable"] = True
    agent.load_state_dict(state)
    assert not any(group["capturable"] for group in agent.optimiser.param_groups)


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("task", [pytest.param(task, marks=GPU) for task in ("point_mass", "identity")])
def test_cuda_graphs_draw_and_learn_what_the_launches_would_have(task):
    results = []
    for capture in (False, True):
        cfg, env, _ = build(task, f"agent.capture={str(capture).lower()}", "replay=device")
        agent = build_agent(cfg, env.facts, torch.device("cuda"))
        torch.manual_seed(0)
        replay = filled(cfg, env, device="cuda")
        results.append((train(agent, replay, 25), replay.sample()))
        for work in (agent._learn, replay._gather):
            assert isinstance(work, Captured) is capture
            assert not capture or work.recorded
    for first, second in zip(*(metrics for metrics, _ in results), strict=True):
        torch.testing.assert_close(first, second)
    for name, value in results[0][1].items():
        assert torch.equal(value, results[1][1][name]), name
