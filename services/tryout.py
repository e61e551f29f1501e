"""What a model must do before it serves: answer its own examples, alone and as a full batch."""

from typing import Any

from services.models import Loaded
from services.options import Options


def full_batch(model: Any, options: Options) -> list[Any]:
    """Repeats a model's examples until they are a full batch."""
    examples: list[Any] = model.examples()
    count = min(options.max_batch, options.max_waiting)
    return (examples * count)[:count]


def check(name: str, answers: list[Any]) -> None:
    """Raises ValueError when there is a refusal among a model's answers to its own examples."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise ValueError(f"the model of {name} refuses its own examples: {answer}")


def try_out(loaded: Loaded, options: Options) -> None:
    """Asks a model that has no thread yet; raises ValueError when it refuses its examples, and what it raises."""
    full = full_batch(loaded.model, options)
    for inputs in (full[:1], full):
        answers = loaded.model.predict(inputs)
        if len(answers) != len(inputs):
            raise ValueError(f"the model of {loaded.name} gives {len(answers)} predictions of {len(inputs)} examples")
        check(loaded.name, answers)
