"""The two networks: n-grams with a small convolution, learned from scratch, and a pretrained encoder.

Both are called with tokens [B, T], n-grams [G] and where each text's n-grams start [B], and give logits [B, C].
Shapes: B texts, T tokens, G n-grams of all texts together, D width, C labels, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Scratch(nn.Module):
    """Adds up the weights of a text's n-grams and what a convolution over its tokens makes of it.

    The n-gram part is a linear classifier (Wang and Manning, 2012, show how far that goes); dropping many
    of the n-grams while training keeps it from trusting any one of them.
    """

    def __init__(self, ngrams: int, vocabulary: int, width: int, labels: int, dropout: float) -> None:
        """Makes a network whose n-grams say nothing yet."""
        super().__init__()
        self.ngrams = nn.Parameter(torch.zeros(max(1, ngrams), labels))
        self.tokens = nn.Embedding(vocabulary, width)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.head = nn.Linear(width, labels)
        self.dropout = dropout

    def forward(self, tokens_BT: Tensor, grams_G: Tensor, starts_B: Tensor) -> Tensor:
        """Gives logits [B, C]."""
        kept_G = F.dropout(torch.ones_like(grams_G, dtype=self.ngrams.dtype), self.dropout, self.training)
        counts_B = torch.diff(starts_B, append=starts_B.new_full((1,), len(grams_G)))
        scale_B1 = counts_B.clamp(min=1).to(kept_G.dtype).rsqrt()[:, None]
        linear_BC = F.embedding_bag(grams_G, self.ngrams, starts_B, mode="sum", per_sample_weights=kept_G) * scale_B1
        return linear_BC + self.head(F.dropout(self._pool(tokens_BT), self.dropout, self.training))

    def _pool(self, tokens_BT: Tensor) -> Tensor:
        real_BT1 = (tokens_BT >= 0)[:, :, None]
        hidden_BTD = F.dropout(self.tokens(tokens_BT.clamp(min=0)), self.dropout, self.training) * real_BT1
        hidden_BTD = F.gelu(self.convolution(hidden_BTD.transpose(1, 2))).transpose(1, 2)
        return hidden_BTD.masked_fill(~real_BT1, float("-inf")).amax(1)  # [B, D]
