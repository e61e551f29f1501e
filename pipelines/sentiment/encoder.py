"""A pretrained transformer under a linear head; transformers is imported only where it is used.

Shapes: B texts, T tokens, D the encoder's width, C labels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn


class Encoder(nn.Module):
    """Averages the encoder's last hidden states over a text's tokens and maps them to labels."""

    def __init__(self, backbone: Any, width: int, labels: int, dropout: float) -> None:
        """Puts a new head on a transformers model."""
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, labels)
        self.dropout = dropout

    def forward(self, tokens_BT: Tensor, grams_G: Tensor, starts_B: Tensor) -> Tensor:
        """Gives logits [B, C]; the n-grams are there for the other network's sake."""
        real_BT = tokens_BT >= 0
        output = self.backbone(input_ids=tokens_BT.clamp(min=0), attention_mask=real_BT.long())
        mean_BD = mean(output.last_hidden_state, real_BT)
        return self.head(F.dropout(mean_BD, self.dropout, self.training))

    def trials(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Gives inputs of several sizes, with padding and without, which says that sizes alone decide what is computed.

        So a record of the operators of one of them is the whole network, if it computes the others as well.
        """
        config = self.backbone.config
        most = max(2, min(128, getattr(config, "max_position_embeddings", 128) // 2))
        draw = torch.Generator().manual_seed(0)
        found = []
        for rows, length in ((2, most), (1, most), (1, 1), (5, most // 2 + 1)):
            tokens_BT = torch.randint(0, config.vocab_size, (rows, length), generator=draw)
            if rows > 1:
                tokens_BT[-1, length // 2 :] = -1
            found.append((tokens_BT, tokens_BT.new_zeros(0), tokens_BT.new_zeros(rows)))
        return found

    def describe(self) -> dict[str, Any]:
        """Gives the encoder's settings, from which `restored` makes it again, without where they came from."""
        return {key: value for key, value in self.backbone.config.to_dict().items() if not key.startswith("_")}


def mean(hidden_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """Averages hidden states over a text's real tokens, which makes [B, D]."""
    real_BT1 = real_BT[:, :, None].to(hidden_BTD.dtype)
    return (hidden_BTD * real_BT1).sum(1) / real_BT1.sum(1)


def pretrained(name: str, labels: int, dropout: float) -> Encoder:
    """Loads an encoder from a folder or from Hugging Face's hub, safetensors only, and gives it a head.

    Raises ValueError when it cannot be had, is no encoder, or holds its weights as a pickle.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    backbone = _ask(AutoModel, name, use_safetensors=True, dtype=torch.float32)
    return _with_head(backbone, labels, dropout)


def restored(settings: dict[str, Any], labels: int, dropout: float) -> Encoder:
    """Makes an encoder with random weights from the settings in an artifact, ready for the artifact's weights."""
    from transformers import AutoConfig, AutoModel

    rest = {key: value for key, value in settings.items() if key != "model_type"}
    backbone = AutoModel.from_config(AutoConfig.for_model(settings["model_type"], **rest))
    return _with_head(backbone, labels, dropout)


def tokenizer(name: str, max_tokens: int) -> tuple[Tokenizer, int]:
    """Loads an encoder's tokenizer, and how many tokens the encoder takes, at most `max_tokens`.

    Raises ValueError when the tokenizer cannot be had, or has no tokenizer.json form.
    """
    from transformers import AutoConfig, AutoTokenizer

    config, found = _ask(AutoConfig, name), _ask(AutoTokenizer, name)
    if not hasattr(found, "backend_tokenizer"):
        raise ValueError(f"--encoder {name!r} has no fast tokenizer (tokenizer.json); choose an encoder that has one")
    limit = min(getattr(config, "max_position_embeddings", max_tokens), found.model_max_length)
    return found.backend_tokenizer, min(max_tokens, limit)


def _ask(kind: Any, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise ValueError(
            f"--encoder {name!r} cannot be loaded; it must be a folder with config.json, tokenizer.json and "
            "model.safetensors (pickled weights such as pytorch_model.bin are refused), or the name of such a "
            f"model on Hugging Face's hub, which must be within reach ({reason})"
        ) from problem


def _with_head(backbone: Any, labels: int, dropout: float) -> Encoder:
    config = backbone.config
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise ValueError(
            f"--encoder: a {config.model_type} model is no text encoder; choose one such as BERT or RoBERTa"
        )
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # the head reads all tokens, and DDP wants every weight used
    return Encoder(backbone, config.hidden_size, labels, dropout)
