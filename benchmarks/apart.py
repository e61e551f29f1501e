"""What it costs to compute a model in processes of its own: calls of one text over one connection, one after another.

    python -m benchmarks.apart --seconds 5

Serves an encoder of random weights in the endpoint's replica, in one process apart and in two, and prints the median
time of a call and the bytes of weights in each process.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from eagerly.client import Client
from eagerly.commands.serve import Serve, serving
from services.models import Stored

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film", "day", "and", "very", "not")
TEXT = "a very good film and a bad day"


def main() -> int:
    """Measures and prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    print("| model | calls | median ms |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        stored = encoder(Path(scratch) / "model", layers=6, width=384)
        for apart in ((), ("sentiment",), ("sentiment=2",)):
            args = Serve(services=("sentiment",), port=0, metrics_port=0, threads=1, apart=apart)
            with serving(args, [stored]) as running, Client(running.address) as client:
                times = _times(client, seconds)
            print(f"| {' '.join(apart) or 'in the replica'} | {len(times)} | {1000 * statistics.median(times):.2f} |")
    return 0


def encoder(folder: Path, layers: int = 4, width: int = 32, seed: int = 0) -> Stored:
    """Writes a sentiment model with an untrained BERT, whose labels tell its seed."""
    import numpy as np
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    from pipelines import artifact
    from pipelines.sentiment.encoder import Encoder
    from pipelines.sentiment.model import Model
    from pipelines.sentiment.reading import Reader

    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    config = BertConfig(vocab_size=1000, max_position_embeddings=64, num_attention_heads=4, **sizes)  # type: ignore[arg-type]
    labels = [f"good {seed}", f"bad {seed}"]
    network = Encoder(BertModel(config, add_pooling_layer=False), width, len(labels), 0.0)
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    settings = {
        "labels": labels,
        "max_tokens": 32,
        "max_characters": 1000,
        "dropout": 0.0,
        "encoder": network.describe(),
    }
    model = Model(network, Reader(tokenizer, np.zeros(0, dtype=np.int64), 32), settings)
    digest = artifact.write(folder, "sentiment", model.save, model.schema())
    return Stored("sentiment", str(folder), version=seed, run_id=f"run-{seed}", digest=digest)


def _times(client: Client, seconds: float) -> list[float]:
    """Calls for so long, after a second of warming up; the seconds of each call."""
    until, times = time.monotonic() + seconds + 1, []
    while (began := time.monotonic()) < until:
        client.analyze([TEXT])
        if began > until - seconds:
            times.append(time.monotonic() - began)
    return times


if __name__ == "__main__":
    sys.exit(main())
