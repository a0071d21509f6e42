"""Objects have no symmetry, views say how they were made, and a store that was cut ends the same."""

import itertools

import numpy as np
import pytest
import torch

from envs import EnvError
from envs.pictures import store
from envs.pictures.objects import (
    LATENTS,
    Scene,
    View,
    about,
    asymmetric,
    cube_rotations,
    draw_view,
    family,
    instance,
    multiply,
    relative,
)
from envs.pictures.sequences import ObjectViews
from envs.pictures.store import ObjectSet, make_beyond, make_pictures
from envs.render import choose_backend
from worldmodel.probes import score

TINY = ObjectSet(classes=2, train=2, val=1, views=3, size=16)


@pytest.fixture(scope="module")
def scene():
    """Something to draw in."""
    try:
        choose_backend()
    except EnvError as error:
        pytest.skip(str(error))
    return Scene()


def matrix(q):
    """A rotation matrix of a quaternion (x, y, z, w)."""
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_quaternions_multiply_like_matrices_and_chain_to_the_direct_turn():
    random = np.random.default_rng(0)
    views = [draw_view(random, (np.pi / 2,) * 3).rotation for _ in range(5)]
    np.testing.assert_allclose(
        matrix(multiply(views[0], views[1])), matrix(views[0]) @ matrix(views[1]), atol=1e-12
    )
    steps = [relative(a, b) for a, b in itertools.pairwise(views)]
    chained = steps[0]
    for step in steps[1:]:
        chained = multiply(chained, step)
    direct = relative(views[0], views[-1])
    assert abs(abs(chained @ direct) - 1) < 1e-12
    np.testing.assert_allclose(relative(views[0], views[0]), [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(multiply(about("z", 0.3), about("z", 0.4)), about("z", 0.7), atol=1e-12)


def test_a_constant_scores_nothing_unless_labels_are_pooled():
    """The three numbers are those of the published data set's rotations."""
    random = np.random.default_rng(0)
    views = np.array([draw_view(random, (np.pi / 2,) * 3).rotation for _ in range(20_000)])
    turns = multiply(views[:10_000] * [-1, -1, -1, 1], views[10_000:])  # signs as published: not made w >= 0
    for labels, pooled in ((turns, 0.229), (views, 0.461)):
        truth = torch.from_numpy(labels)
        found = score(truth.mean(0).expand_as(truth), truth)
        assert abs(found.uniform) < 1e-9
        assert abs(found.weighted) < 1e-9
        assert abs(found.pooled - pooled) < 0.01


def test_a_cube_has_24_different_rotations():
    found = cube_rotations()
    assert len(found) == 24
    np.testing.assert_allclose(np.abs(found[0]), [0, 0, 0, 1], atol=1e-12)
    likeness = np.abs(np.array(found) @ np.array(found).T)
    assert (likeness > 0.999).sum() == 24
    for q in found:
        assert set(np.abs(matrix(q)).round(9).ravel()) == {0.0, 1.0}


def test_families_never_change_and_their_objects_differ(scene):
    for number in range(3):
        again = family(number)
        assert all(
            a.shape == b.shape and np.array_equal(a.place, b.place)
            for a, b in zip(family(number), again, strict=True)
        )
    first, second = instance(0, 0), instance(0, 1)
    assert [part.shape for part in first[:4]] == [part.shape for part in second[:4]]
    assert not np.allclose(first[0].size, second[0].size)
    scene.show(first)
    view = View(np.array([0.0, 0.0, 0.0, 1.0]), 0.2, (0.3, 1.0, 0.6))
    one = scene.draw(view, 32)
    scene.show(second)
    assert np.abs(one.astype(int) - scene.draw(view, 32)).mean() > 2
    scene.show(first)
    assert np.array_equal(scene.draw(view, 32), one)


def test_turning_floor_and_light_show_in_the_picture(scene):
    scene.show(instance(1, 0))
    base = View(np.array([0.0, 0.0, 0.0, 1.0]), 0.2, (0.3, 1.0, 0.6))
    first = scene.draw(base, 32).astype(int)
    for changed in (
        View(about("z", 0.7), 0.2, (0.3, 1.0, 0.6)),
        View(base.rotation, 0.6, (0.3, 1.0, 0.6)),
        View(base.rotation, 0.2, (0.3, 1.0, 0.1)),
    ):
        assert np.abs(scene.draw(changed, 32) - first).mean() > 1


def test_a_ball_is_symmetric_and_objects_are_not(scene):
    ball = [part for part in instance(0, 0)[:1]]
    ball = [type(ball[0])("ellipsoid", np.full(3, 0.4), np.zeros(3), np.array([1.0, 0, 0, 0]), np.ones(3))]
    assert not asymmetric(scene, ball)
    assert asymmetric(scene, instance(0, 0))


def test_a_store_is_split_by_object_and_says_how_its_views_were_made(scene, tmp_path):
    found = make_pictures(tmp_path, TINY)
    assert found.images.shape == (6, 3, 16, 16, 3)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.held_out.tolist() == [False, False, True] * 2
    assert found.latents.shape[-1] == len(LATENTS)
    np.testing.assert_allclose(np.linalg.norm(found.latents[..., :4], axis=-1), 1, atol=1e-6)
    assert found.images.reshape(18, -1).std(1).min() > 1


def test_a_store_that_was_cut_ends_the_same(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FLUSH", 2)
    whole = make_pictures(tmp_path / "whole", TINY)

    class CutError(Exception):
        pass

    def cut(_, count):
        if count == 4:
            raise CutError

    with pytest.raises(CutError):
        make_pictures(tmp_path / "cut", TINY, cut)
    done = np.load(next((tmp_path / "cut").glob("*/done.npy")))
    assert done.tolist() == [1, 1, 0, 0, 0, 0]
    drawn = []
    again = make_pictures(tmp_path / "cut", TINY, lambda _, count: drawn.append(count))
    assert drawn == [3, 4, 5, 6]
    assert np.array_equal(again.images, whole.images)
    assert np.array_equal(again.latents, whole.latents)
    drawn.clear()
    make_pictures(tmp_path / "cut", TINY, lambda _, count: drawn.append(count))
    assert not drawn


def test_beyond_are_held_out_objects_turned_farther_than_any_of_the_set(scene, tmp_path):
    narrow = ObjectSet(classes=2, train=2, val=1, views=3, size=16, angles=(0.0, 30.0, 90.0))
    found = make_beyond(tmp_path, narrow)
    assert found.labels.tolist() == [0, 1]
    assert found.held_out.all()
    for x, y, z, w in found.latents[..., :4].reshape(-1, 4):
        m = matrix((x, y, z, w))
        turned = np.degrees(np.abs([np.arctan2(m[2, 1], m[2, 2]), np.arcsin(-m[2, 0])]))
        assert turned[0] < 1e-3 or abs(turned[0] - 180) < 1e-3  # an angle about Y beyond 90 shows as a flip
        assert turned[1] > 29 or abs(turned[0] - 180) < 1e-3
    inside = make_pictures(tmp_path, narrow)
    assert len(inside.labels) == 6  # a store of its own
    source = ObjectViews(inside, beyond=lambda: found)
    assert source.beyond().held_out.all()
    assert ObjectViews(found).beyond() is None


def test_beyond_about_three_axes_is_no_turn_of_the_set_by_other_angles(scene, tmp_path):
    found = make_beyond(tmp_path, ObjectSet(classes=2, train=1, val=2, views=2, size=16))
    for rotation in found.latents[..., :4].reshape(-1, 4):
        m = matrix(rotation)  # its only angles with the one about Y within 90 degrees
        turned = np.degrees(np.abs([np.arctan2(m[2, 1], m[2, 2]), np.arctan2(m[1, 0], m[0, 0])]))
        assert turned.min() > 89.9


def test_more_different_views_than_there_are_is_a_mistake(scene, tmp_path):
    source = ObjectViews(make_pictures(tmp_path, TINY))
    with pytest.raises(EnvError, match=r"learning\.observed=2"):
        source.draw(torch.tensor([0]), 4, torch.Generator())


def test_sequences_of_objects_show_different_views_and_the_turns_between_them(scene, tmp_path):
    source = ObjectViews(make_pictures(tmp_path, TINY), colour=True)
    things = torch.tensor([0, 0, 4])
    drawn = source.draw(things, 3, torch.Generator().manual_seed(0))
    assert drawn.images.shape == (3, 3, 3, 16, 16)
    assert drawn.actions.shape == (3, 3, 6)
    assert not drawn.actions[:, 0].any()
    for row in range(3):
        assert len({tuple(pose.tolist()) for pose in drawn.poses[row]}) == 3
        chained = multiply(
            drawn.actions[row, 1, :4].double().numpy(), drawn.actions[row, 2, :4].double().numpy()
        )
        direct = source.action(drawn.poses[row, 0], drawn.poses[row, 2])[:4].double().numpy()
        assert abs(abs(chained @ direct) - 1) < 1e-5
    hues = drawn.poses[:, 1:, [4, 7]] - drawn.poses[:, :-1, [4, 7]]
    torch.testing.assert_close(drawn.actions[:, 1:, 4:], hues)
    again = source.draw(things, 3, torch.Generator().manual_seed(0))
    assert torch.equal(again.images, drawn.images)
    other = source.draw(things, 3, torch.Generator().manual_seed(1))
    assert not torch.equal(other.poses, drawn.poses)


def test_another_set_has_another_store_and_a_damaged_one_is_named(scene, tmp_path):
    make_pictures(tmp_path, TINY)
    make_pictures(tmp_path, ObjectSet(classes=1, train=1, val=1, views=1, size=16))
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2
    for folder in folders:
        (folder / "latents.npy").write_bytes(b"nothing")
    with pytest.raises(EnvError, match=r"latents\.npy is damaged.*delete its folder"):
        make_pictures(tmp_path, TINY)
