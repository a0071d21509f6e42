"""Glances show what they were aimed at, do not return, and move as actions say; cut stores end the same."""

import errno

import numpy as np
import pytest
import torch

from envs import EnvError
from envs.pictures import store
from envs.pictures.objects import View, instance
from envs.pictures.saccades import Saccades
from envs.pictures.scenes import Scenes, SceneSet, Stage, make_scenes, saliency

TINY = SceneSet(classes=2, train=2, val=1, size=24)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def coded(count=3, size=96, weights=None):
    """Scenes whose pixels say row + 1, column + 1 and scene + 1, so that none is zero."""
    row, column = np.mgrid[:size, :size] + 1
    images = np.stack([np.stack([row, column, np.full_like(row, n + 1)], -1) for n in range(count)])
    weights = np.random.default_rng(0).random((size, size)) if weights is None else weights
    maps = np.repeat((weights / weights.sum())[None], count, 0).astype(np.float16)
    return Scenes(images.astype(np.uint8), maps, np.arange(count), np.arange(count) > 0)


def pixels(found, size=96):
    return (found.poses * size).round().long()


@pytest.mark.parametrize("patch", [32, 15])
def test_a_patch_holds_the_pixels_around_its_fixation_and_zeros_outside(patch):
    source, things = Saccades(coded(), patch=patch), torch.tensor([2, 0, 1, 2] * 10)
    found = source.draw(things, 6, seeded())
    assert found.images.shape == (40, 6, *source.shape)
    assert found.images.dtype == torch.uint8
    at, half = pixels(found), patch // 2
    assert torch.equal(found.images[:, :, :2, half, half].long(), at + 1)
    steps = torch.arange(patch) - half
    rows, columns = (at[..., i, None] + steps for i in range(2))
    seen = ((rows >= 0) & (rows < 96))[..., None] & ((columns >= 0) & (columns < 96))[..., None, :]
    assert 0.01 < 1 - seen.float().mean() < 0.5
    layers = rows[..., None] + 1, columns[..., None, :] + 1, (things + 1)[:, None, None, None]
    for layer, expected in enumerate(layers):
        assert torch.equal(found.images[:, :, layer].long(), torch.where(seen, expected, 0))


def test_places_are_drawn_by_their_weight():
    weights = np.array([[8, 0, 0, 0], [4, 0, 0, 0], [0, 2, 0, 1], [0, 0, 0, 1]])
    source = Saccades(coded(1, 4, weights), patch=2)
    at = pixels(source.draw(torch.zeros(20_000, dtype=torch.long), 1, seeded()), 4)[:, 0]
    counts = torch.bincount(at[:, 0] * 4 + at[:, 1], minlength=16).view(4, 4) / 20_000
    np.testing.assert_allclose(counts, weights / 16, atol=0.012)
    assert not counts[torch.from_numpy(weights) == 0].any()


@pytest.mark.parametrize("salient", [True, False])
def test_the_eye_does_not_return_while_room_remains(salient):
    peaked = np.full((96, 96), 1e-4)
    peaked[40:60, 30:50] = 1
    things, different = torch.zeros(64, dtype=torch.long), ~torch.eye(5, dtype=torch.bool)

    def nearest(inhibition):
        source = Saccades(coded(1, weights=peaked), saliency=salient, inhibition=inhibition)
        at = pixels(source.draw(things, 5, seeded())).float()
        return torch.cdist(at, at)[:, different].min()

    assert nearest(True) > 16
    assert nearest(False) < 16


def test_looking_goes_on_where_nothing_is_salient_and_where_nothing_is_left():
    spot = np.zeros((24, 24))
    spot[12, 5] = 1
    at = pixels(Saccades(coded(1, 24, spot), patch=12).draw(torch.tensor([0] * 9), 40, seeded()), 24)
    assert (at[:, 0] == torch.tensor([12, 5])).all()
    assert torch.cdist(at[:, :1].float(), at[:, 1:5].float()).min() > 6
    assert at.min() >= 0
    assert at.max() < 24
    assert len(at[:, 20:].unique(dim=1)) > 1


def test_actions_are_the_displacements_of_the_eye_and_add_up():
    source = Saccades(coded())
    found = source.draw(torch.tensor([0, 1, 2]), 6, seeded())
    assert (found.poses >= 0).all()
    assert (found.poses < 1).all()
    assert not found.actions[:, 0].any()
    assert torch.equal(found.actions[:, 1], source.action(found.poses[:, 0], found.poses[:, 1]))
    walked, direct = found.actions.sum(1), source.action(found.poses[:, 0], found.poses[:, -1])
    torch.testing.assert_close(walked, direct, atol=1e-6, rtol=0)
    assert torch.equal((walked * 96).round().long(), pixels(found)[:, -1] - pixels(found)[:, 0])


def test_salient_places_are_visited_more_often():
    weights = np.ones((96, 96))
    weights[10:40, 50:90] = 20  # asymmetric: rows are not columns

    def share(salient):
        source = Saccades(coded(1, weights=weights), saliency=salient)
        row, column = pixels(source.draw(torch.zeros(400, dtype=torch.long), 2, seeded())).unbind(-1)
        return ((row >= 10) & (row < 40) & (column >= 50) & (column < 90)).float().mean()

    assert share(True) > 0.6
    assert share(False) < 0.25


def test_equal_generators_give_equal_glances():
    source, things = Saccades(coded()), torch.tensor([0, 1, 2, 2])
    first, again, other = (source.draw(things, 4, seeded(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.poses, other.poses)
    assert not torch.equal(first.poses[2], first.poses[3])


def test_a_patch_that_does_not_suit_the_scenes_is_named():
    with pytest.raises(EnvError, match="patch of 64 pixels does not suit scenes of 48; choose 2 to 48"):
        Saccades(coded(1, 48), patch=64)


def test_saliency_adds_up_to_one_never_changes_and_finds_what_stands_out():
    random = np.random.default_rng(0)
    picture = random.integers(90, 110, (96, 96, 3), dtype=np.uint8)
    picture[20:40, 50:75] = (200, 60, 60)
    found = saliency(picture)
    assert found.min() > 0
    assert found.sum() == pytest.approx(1)
    assert np.array_equal(found, saliency(picture.copy()))
    assert found[20:40, 50:75].sum() > 3 * 20 * 25 / 96**2
    flat = saliency(np.full((96, 96, 3), 128, np.uint8))
    assert flat.sum() == pytest.approx(1)
    assert flat[36:60, 36:60].sum() > 2 * flat[:24, :24].sum() > 0


def test_saliency_of_a_scene_lies_on_its_object(gl):
    stage, random = Stage(), np.random.default_rng(0)
    view = View(np.array([0.0, 0.0, 0.0, 1.0]), 0.2, (0.3, 1.0, 0.6))
    stage.surround(random)
    stage.show([])
    empty = stage.draw(view, 96).astype(int)
    for number in range(4):
        stage.show(instance(number, 0))
        image = stage.draw(view, 96)
        on = np.abs(image - empty).max(-1) > 8
        assert on.mean() > 0.1
        assert saliency(image)[on].sum() > 1.5 * on.mean()


def test_scenes_are_split_by_object_and_all_differ(gl, tmp_path):
    wanted = SceneSet(classes=2, train=2, val=1, views=2, size=24)
    found = make_scenes(tmp_path, wanted)
    assert found.images.shape == (12, 24, 24, 3)
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    assert found.held_out.tolist() == [False, False, False, False, True, True] * 2
    np.testing.assert_allclose(found.saliency.sum((1, 2), dtype=float), 1, atol=1e-3)
    for number, image in enumerate(found.images):
        assert image.std() > 5
        assert all(np.abs(image.astype(int) - other).mean() > 3 for other in found.images[:number])


def test_scenes_that_were_cut_end_the_same(gl, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FLUSH", 2)
    make_scenes(tmp_path / "whole", TINY)

    class CutError(Exception):
        pass

    def cut(what, count):
        assert what == "scenes drawn"
        if count == 4:
            raise CutError

    with pytest.raises(CutError):
        make_scenes(tmp_path / "cut", TINY, cut)
    assert np.load(next((tmp_path / "cut").glob("*/done.npy"))).tolist() == [1, 1, 0, 0, 0, 0]
    drawn = []
    make_scenes(tmp_path / "cut", TINY, lambda _, count: drawn.append(count))
    assert drawn == [3, 4, 5, 6]
    written = sorted((tmp_path / "whole").glob("*/*"))
    assert [path.name for path in written] == ["done.npy", "images.npy", "saliency.npy", "set.json"]
    for path in written:
        same = tmp_path / "cut" / path.relative_to(tmp_path / "whole")
        assert same.read_bytes() == path.read_bytes()


def test_a_full_disk_is_an_error_before_anything_is_drawn(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(EnvError, match=r"images\.npy of \d+ MiB .*No space left.*smaller set"):
        make_scenes(tmp_path, TINY)
    assert [path.name for path in tmp_path.glob("*/*")] == ["set.json"]
