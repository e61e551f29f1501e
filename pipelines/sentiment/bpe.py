"""The tokenizer that is learned from the training split: byte-level BPE, so that no text is unknown to it."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers


def learn(texts: list[str], size: int) -> Tokenizer:
    """Learns at most `size` tokens, the 256 bytes among them, from texts without regard to case and width."""
    tokenizer = Tokenizer(models.BPE())
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
