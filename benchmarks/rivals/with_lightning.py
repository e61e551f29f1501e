"""Lightning, tuned for speed as its documentation advises.

Followed: `Trainer(barebones=True)`, which its reference says is for measuring raw speed (no logger, progress bar,
checkpoints, summary or sanity check), fused optimizer, tensors indexed in memory, no worker processes.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import logging
import warnings
from typing import Any

import lightning
from torch import Tensor

from benchmarks.rivals.recipe import Clock, Recipe, folder


class Module(lightning.LightningModule):
    """The network with its loss, optimizer and schedule."""

    def __init__(self, recipe: Recipe) -> None:
        """Takes the recipe."""
        super().__init__()
        self.recipe, self.network = recipe, recipe.network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Gives the loss of a batch."""
        return self.recipe.loss(self.network, batch)

    def configure_optimizers(self) -> Any:
        """Gives the optimizer, and the schedule by steps."""
        made = self.recipe.optimizer()
        return {"optimizer": made, "lr_scheduler": {"scheduler": self.recipe.scheduler(made), "interval": "step"}}


def main() -> None:
    """Trains."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    recipe, clock = Recipe(), Clock()
    trainer = lightning.Trainer(
        barebones=True, max_epochs=recipe.epochs, accelerator="cpu", devices=1, default_root_dir=folder()
    )
    trainer.fit(Module(recipe), recipe.loader(clock))
    recipe.finish(clock)


if __name__ == "__main__":
    main()
