"""Pre-training: schedules, resuming to the bit, studies, and what is asked of a finished model."""

import json
import math
from contextlib import ExitStack
from itertools import pairwise

import pytest
import torch

from agents import lessons
from agents.cli import UserError
from agents.config import config_hash, load_config, load_pretraining, read_config, to_yaml
from agents.examination import Subject, examine
from agents.lessons import shapes_of
from agents.pretrain import data_name, learn, plan, vary
from agents.pretraining import Pretraining, learning_rate
from agents.rundir import open_run
from agents.stopping import Stopper
from agents.train import main as train
from envs.pictures.sequences import Sequences
from worldmodel import build

TINY = [
    "worldmodel.encoder.channels=[4,8]",
    "worldmodel.encoder.latent=8",
    "worldmodel.aggregator.layers=1",
    "worldmodel.aggregator.ff=16",
    "worldmodel.action.width=8",
    "worldmodel.predictor.hidden=[16]",
]
SMALL = [
    *TINY,
    "learning.batch=8",
    "learning.updates=6",
    "learning.warmup=2",
    "learning.log_every=2",
    "learning.checkpoint_every=3",
    "logger=off",
]


class Squares:
    """A bright square somewhere in a picture, its brightness the class; an action moves it."""

    shape = (3, 32, 32)
    action_size = 2
    place = turn = slice(0, 2)
    path_head = "linear"

    def __init__(self, things=24, classes=3):
        self.labels = torch.arange(things) % classes
        self.held_out = torch.arange(things) % 4 == 3
        self.drawn = []

    def beyond(self):
        """Nothing is outside."""

    def draw(self, things, views, generator):
        """Put the square anywhere, `views` times."""
        at = torch.randint(0, 24, (len(things), views, 2), generator=generator)
        inside = torch.arange(32)[:, None] - at[:, :, None]  # B V 32 2
        bright = ((inside[..., 0] % 32 < 8)[..., None] & (inside[..., 1] % 32 < 8)[..., None, :]).float()
        colour = (1 + self.labels[things].float())[:, None, None, None] * 80
        images = (bright * colour)[:, :, None].expand(-1, -1, 3, -1, -1).to(torch.uint8)
        poses = at / 32
        actions = torch.zeros_like(poses)
        actions[:, 1:] = poses[:, 1:] - poses[:, :-1]
        self.drawn.append(poses)
        return Sequences(images, actions, poses)

    def action(self, before, after):
        """The way from one place to another."""
        return after - before


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    monkeypatch.setattr(lessons, "make_source", lambda *_: Squares())


def session(cfg, run, stop, closing):
    return Pretraining(cfg, run, stop, closing, lambda *_: None)


def trained(tmp_path, name, *words, stops=()):
    """Learn a run, cut after some numbers of updates and resumed: its weights and metrics."""
    cfg = load_pretraining([*SMALL, f"run.dir={tmp_path / name}", *words])
    for limit in (*stops, math.inf):
        with (
            Stopper() as stop,
            open_run(cfg.run.root, "squares", cfg.seed, config_hash(cfg), dir=cfg.run.dir) as run,
            ExitStack() as closing,
        ):
            one = session(cfg, run, stop, closing)
            one.stop = lambda one=one, limit=limit: one.updates >= limit
            one.stop.impatient = False
            finished = one.run()
    assert finished
    return one.objective.state_dict(), (tmp_path / name / "metrics.jsonl").read_bytes()


def test_the_rate_climbs_in_the_warm_up_and_falls_after_it():
    learning = load_pretraining(["learning.updates=100", "learning.warmup=10"]).learning
    rates = [learning_rate(k, learning) for k in range(100)]
    assert rates[0] == learning.lr_first
    assert all(b > a for a, b in pairwise(rates[:11]))
    assert rates[10] == learning.lr
    assert all(b < a for a, b in pairwise(rates[10:]))
    assert rates[-1] < learning.lr / 50


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_that_was_cut_ends_like_one_that_was_not(tmp_path, dropout):
    word = f"worldmodel.aggregator.dropout={dropout}"
    whole, metrics = trained(tmp_path, "whole", word)
    cut, again = trained(tmp_path, "cut", word, stops=(1, 4))
    assert metrics == again
    assert len(metrics.splitlines()) == 3
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_a_thing_is_shown_otherwise_every_time(tmp_path, monkeypatch):
    source = Squares()
    monkeypatch.setattr(lessons, "make_source", lambda *_: source)
    trained(tmp_path, "run")
    first, second = source.drawn[0], source.drawn[1]
    assert first.shape == (8, 4, 2)
    assert not torch.equal(first, second)


def test_only_matrices_are_decayed_and_only_the_model_is_optimised(tmp_path):
    cfg = load_pretraining([*SMALL, f"run.dir={tmp_path / 'run'}"])
    with (
        Stopper() as stop,
        open_run("", "squares", 0, config_hash(cfg), dir=cfg.run.dir) as run,
        ExitStack() as closing,
    ):
        one = session(cfg, run, stop, closing)
        decayed, free = one.optimiser.param_groups
        assert all(w.ndim > 1 for w in decayed["params"])
        assert all(w.ndim <= 1 for w in free["params"])
        assert free["weight_decay"] == 0 < decayed["weight_decay"]
        optimised = {id(w) for group in (decayed, free) for w in group["params"]}
        assert optimised == {id(w) for w in one.objective.model.parameters()}


def test_pictures_without_rewards_are_not_asked_for_them(tmp_path):
    cfg = load_pretraining(["worldmodel=seq_jepa_pixels", f"run.dir={tmp_path / 'run'}", "logger=off"])
    with pytest.raises(UserError, match="no reward"), Stopper() as stop:
        learn(cfg, stop, lambda *_: None)


def test_a_study_runs_every_variant_on_a_seed_before_the_next_seed():
    cfg = load_pretraining(["experiment=objects", "study.only=[both,none]", "study.seeds=2"])
    runs = plan(cfg)
    assert [(run.variant, run.seed) for run in runs] == [("both", 0), ("none", 0), ("both", 1), ("none", 1)]
    assert [run.worldmodel["action"]["seen_by"] for run in runs] == ["both", "none"] * 2
    assert len({config_hash(run) for run in runs}) == 2  # the seed stands beside the hash
    assert cfg.worldmodel["action"]["seen_by"] == "both"


def test_another_file_of_the_same_name_is_another_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=table", "data.table=a.csv"]
    hashes = []
    for text in ("a,b\n1,2\n", "a,b\n1,3\n", "a,b\n1,2\n"):
        (tmp_path / "a.csv").write_text(text)
        hashes.append(config_hash(plan(load_pretraining(words))[0]))
    assert hashes[0] == hashes[2] != hashes[1]


def test_what_is_last_is_settled_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(["env=toy_point_mass", "trainer=debug", "agent.compile=false", "trainer.frames=200"]) == 0
    (one, *_) = plan(load_pretraining(["experiment=table_walker", "data.run=last"]))
    assert one.data.run.startswith(str(tmp_path / "runs" / "toy_point_mass"))
    assert one.data.run.endswith("checkpoints/000000200")
    assert data_name(one.data) == "states_toy_point_mass"


@pytest.mark.parametrize("observed", [3, 6])
def test_learned_positions_must_reach_as_far_as_is_looked(tmp_path, observed):
    words = [
        *SMALL[:-6],
        "worldmodel.aggregator.positions=learned",
        f"learning.observed={observed}",
        "logger=off",
    ]
    words += [
        "worldmodel/aggregator=bidirectional",
        "worldmodel.aggregator.context=7",
        f"run.dir={tmp_path / 'run'}",
    ]
    with pytest.raises(UserError, match=r"set worldmodel\.aggregator\.context=8"), Stopper() as stop:
        learn(load_pretraining(words), stop, lambda *_: None)


def test_every_variant_that_ships_changes_something_that_exists():
    for experiment in ("objects", "saccades"):
        cfg = load_pretraining([f"experiment={experiment}"])
        for name in cfg.study.variants:
            one = vary(cfg, name, 0)
            assert name == "both" or config_hash(one) != config_hash(vary(cfg, "both", 0))
            build(one.worldmodel, shapes_of(Squares()), seed=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=objects", "study.only=[bth]"], "no variant"),
        (["experiment=objects", "run.dir=x"], "does not fit one run.dir"),
        (["experiment=walker"], "another command"),
        (["data=saccades", "data.colour=true"], "of objects"),
        (["env=dmc_walker"], "unknown key env"),
        (["learning.updates=-1"], "at least 0"),
    ],
)
def test_mistakes_are_answered_in_words(words, said):
    with pytest.raises(UserError, match=said):
        load_pretraining(words)


def test_training_refuses_an_experiment_of_pretraining():
    with pytest.raises(UserError, match="another command"):
        load_config(["experiment=objects"])


def test_a_variant_of_a_setting_that_does_not_exist_is_refused():
    cfg = load_pretraining(["experiment=objects"])
    cfg.study.variants["odd"] = {"worldmodel.action.sen_by": "none"}
    with pytest.raises(UserError, match="no setting"):
        vary(cfg, "odd", 0)


def test_a_finished_run_is_examined_once_and_then_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("agents.examination.FIT", 60)
    monkeypatch.setattr("agents.examination.JUDGE", 30)
    cfg = load_pretraining(
        [*SMALL[:-6], "learning.updates=2", "learning.batch=8", "logger=off", f"run.root={tmp_path}"]
    )
    with Stopper() as stop:
        path = learn(cfg, stop, lambda *_: None)
    found = json.loads((path / "examination.json").read_text())
    assert found["updates"] == 2
    assert found["frames"] == 2 * 8 * 4
    assert all(math.isfinite(value) for value in found["metrics"].values())
    assert (path / "plots" / "landscape.png").stat().st_size > 10_000
    before = (path / "examination.json").stat().st_mtime_ns
    with Stopper() as stop:
        assert learn(cfg, stop, lambda *_: None) == path
    assert (path / "examination.json").stat().st_mtime_ns == before


def test_a_run_without_an_agent_says_so(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(load_pretraining([])))
    with pytest.raises(UserError, match="no agent") as caught:
        read_config(tmp_path / "config.yaml")
    assert "agents.claims" in str(caught.value)


class Telling(torch.nn.Module):
    """A model that says what it sees: brightness, row and column; its belief remembers every latent."""

    def __init__(self):
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(1))

    def encode(self, obs):
        """Find the square."""
        image = obs["pixels"][:, :, 0].float()
        total = image.sum((-2, -1)).clamp_min(1)
        row = (image.sum(-1) * torch.arange(32)).sum(-1) / total / 32
        column = (image.sum(-2) * torch.arange(32)).sum(-1) / total / 32
        kind = torch.nn.functional.one_hot((image.amax((-2, -1)) / 80).long(), 4).float()
        return torch.cat([row[..., None], column[..., None], kind], -1)

    def aggregate(self, z, prev_action):
        """Add everything up."""
        return torch.cat([z[:, -1], z.mean(1), prev_action.sum(1)], -1)[:, None], None

    def predict(self, belief, action):
        """Move the square."""
        moved = torch.cat([belief[:, :2] + action, belief[:, 2:6]], -1)
        return type("Prediction", (), {"latent": moved})


def test_a_model_that_tells_everything_is_found_to(monkeypatch):
    monkeypatch.setattr("agents.examination.FIT", 300)
    monkeypatch.setattr("agents.examination.JUDGE", 150)
    found = examine(Subject(Telling(), Squares()))
    assert found["class/latent"] == found["class/belief@5"] == 1
    assert found["action/linear"] > 0.999
    assert found["pose/linear"] > 0.999
    assert found["path/both@7"] > 0.999
    assert found["path/act@7"] > 0.999
    assert found["path/see@7"] < 0.75
    assert found["path/last_action@7"] < 0.4
    assert 0.3 < found["path/final_pose@7"] < 0.7
    assert found["retrieval/hit@1@3"] > 0.9
    assert found["path/act_ablated@3"] > 0.999 > found["path/see_ablated@3"]


def test_questions_leave_a_model_as_it_was(monkeypatch):
    monkeypatch.setattr("agents.examination.FIT", 40)
    monkeypatch.setattr("agents.examination.JUDGE", 20)
    cfg = load_pretraining(SMALL)
    model = build(cfg.worldmodel, shapes_of(Squares()), seed=0).model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    examine(Subject(model, Squares()))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
