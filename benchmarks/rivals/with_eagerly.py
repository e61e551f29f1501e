"""Our loop, with its defaults: guards on, numbers read twice a second."""

from benchmarks.rivals.recipe import Clock, Recipe, folder
from pipelines import loop
from pipelines.journal import Journal
from pipelines.place import Place


def main() -> None:
    """Trains."""
    recipe, clock = Recipe(), Clock()
    place = Place(threads=0)
    emit = Journal(folder()).append
    worker = loop.Worker(recipe.task, recipe.config, folder(), place, emit, recipe.data, 0)
    recipe.network = worker.network
    clock.start()
    while worker.progress.epoch < recipe.epochs:
        worker.train_epoch()
        worker.progress.epoch, worker.progress.batch = worker.progress.epoch + 1, 0
    recipe.finish(clock)


if __name__ == "__main__":
    main()
