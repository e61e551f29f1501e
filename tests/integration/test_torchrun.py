"""torchrun trains as one process does, and registers once."""

import pytest
from trained import Trained, losses

from pipelines import registry

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy


def test_two_processes_of_torchrun_have_the_losses_of_one(trained_by_torchrun: Trained, trained_alone: Trained) -> None:
    assert trained_by_torchrun.result.returncode == 0, trained_by_torchrun.result.stderr
    assert len(losses(trained_by_torchrun.run_dir)) == 46
    assert losses(trained_by_torchrun.run_dir) == pytest.approx(losses(trained_alone.run_dir), rel=0, abs=1e-4)


def test_only_rank_0_speaks_records_and_registers(
    trained_by_torchrun: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained_by_torchrun.folder}/mlflow.db")
    assert [version.version for version in registry.versions("classifier")] == [1]
    assert trained_by_torchrun.result.stdout.count("model version  classifier 1, champion") == 1
    assert not (trained_by_torchrun.folder / "runs").exists()
