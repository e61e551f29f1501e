"""Accelerate with a plain loop, as its quick tour has it, fused optimizer, tensors indexed in memory."""
# pyright: reportMissingImports=false

from accelerate import Accelerator

from benchmarks.rivals.recipe import Clock, Recipe


def main() -> None:
    """Trains."""
    recipe, clock = Recipe(), Clock()
    accelerator = Accelerator(cpu=True)
    made = recipe.optimizer()
    network, made, loader, scheduler = accelerator.prepare(
        recipe.network, made, recipe.loader(clock), recipe.scheduler(made)
    )
    network.train()
    for _ in range(recipe.epochs):
        for batch in loader:
            made.zero_grad()
            accelerator.backward(recipe.loss(network, batch))
            made.step()
            scheduler.step()
    recipe.finish(clock)


if __name__ == "__main__":
    main()
