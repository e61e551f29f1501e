"""Runs that several integration tests look at: of one process, and of torchrun's two."""

import pytest
from trained import FLAGS, Trained, python


@pytest.fixture(scope="session")
def trained_by_torchrun(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The classifier, trained by `torchrun --nproc-per-node 2 -m eagerly train classifier`."""
    folder = tmp_path_factory.mktemp("torchrun")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "eagerly", "train", "classifier", "--run-dir", "run", *FLAGS]
    return Trained(folder, python(*launch, *command, folder=folder))


@pytest.fixture(scope="session")
def trained_alone(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The classifier, trained by `eagerly train classifier --local`."""
    folder = tmp_path_factory.mktemp("local")
    command = ["-m", "eagerly", "train", "classifier", "--local", "--run-dir", "run", *FLAGS]
    return Trained(folder, python(*command, folder=folder))
