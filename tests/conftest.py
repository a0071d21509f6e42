"""One thread, seeded, no GL unless a test asks for it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RL_WARNINGS", "0")
os.environ["WANDB_MODE"] = "offline"

import pytest


@pytest.fixture(autouse=True)
def one_thread_and_a_seed() -> None:
    """Two spinning threads on a shared machine cost ten times what they bring."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def gl() -> str:
    """The GL that draws here; skips where none does."""
    from envs import EnvError
    from envs.render import choose_backend

    try:
        return choose_backend()
    except EnvError as error:
        pytest.skip(str(error))
