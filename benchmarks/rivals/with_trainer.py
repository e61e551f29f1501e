"""Hugging Face's Trainer, tuned for speed: fused optimizer, tensors indexed in memory.

Nothing is logged, shown, saved or evaluated; gradients are not clipped, and losses not searched for NaN, as they are
by default. Its documentation advises to override `get_train_dataloader` and `compute_loss` for one's own of either.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from benchmarks.rivals.recipe import Clock, Recipe, folder


class Rival(Trainer):
    """The trainer with the recipe's loss and loader."""

    recipe: Recipe
    clock: Clock

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Gives the loader; batches are dicts, which the trainer can move to a device."""
        made = self.recipe.loader(self.clock, lambda batch: {"parts": list(batch), "kind": type(batch)})
        return self.accelerator.prepare(made)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *more: Any, **named: Any) -> Tensor:
        """Gives the loss of a batch."""
        kind, parts = inputs["kind"], inputs["parts"]
        return self.recipe.loss(model, kind(*parts) if hasattr(kind, "_fields") else tuple(parts))


def main() -> None:
    """Trains."""
    recipe, clock = Recipe(), Clock()
    made = recipe.optimizer()
    arguments = TrainingArguments(
        output_dir=str(folder()),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.config.batch_size,
        max_grad_norm=0.0,
        logging_nan_inf_filter=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    rival = Rival(recipe.network, arguments, train_dataset=recipe.data.train, optimizers=(made, recipe.scheduler(made)))
    rival.recipe, rival.clock = recipe, clock
    rival.train()
    recipe.finish(clock)


if __name__ == "__main__":
    main()
