"""The sentence encoder: a six-layer BERT (all-MiniLM-L6-v2) stored in 8 and 4 bits.

The network is Wang et al., "MiniLM" (arXiv 2002.10957), tuned for sentence similarity by the
sentence-transformers project; sentence vectors are the mean over tokens, L2-normalised. Weights
are kept small on disk and expanded to float32 once at load, so a prompt costs a few milliseconds.

``models/text-encoder/MODEL_CARD.md`` has the measured loss of every storage form.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from mirage_cli.errors import ModelError

FORMAT = "mirage-text-encoder"


def quantise_rows(weight: torch.Tensor, bits: int, group: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric quantisation of each row, or of each group of ``group`` columns in a row.

    Args:
        weight: float [rows, columns].
        bits: 8, or 4 (two values a byte; ``columns`` must be even).
        group: columns that share a scale; None is the whole row. It must divide ``columns``.
    Returns:
        codes: int8 [rows, columns] for 8 bits, uint8 [rows, columns // 2] for 4 bits.
        scale: float16 [rows, columns // group].
    """
    rows, columns = weight.shape
    group = group or columns
    top = 2 ** (bits - 1) - 1
    parts = weight.float().reshape(rows, columns // group, group)
    scale = (parts.abs().amax(-1) / top).clamp_min(6e-8).half()
    if bits == 4:
        scale = _best_scale(parts, scale, top)
    # Divide by the scale as it is stored, so that rounding it to half precision adds no error.
    codes = (parts / scale.float()[..., None]).round().clamp(-top, top).reshape(rows, columns).to(torch.int8)
    if bits == 8:
        return codes, scale
    nibbles = (codes + 8).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4), scale


def _best_scale(parts: torch.Tensor, scale: torch.Tensor, top: int) -> torch.Tensor:
    """With 15 levels, clipping the largest value a little often lowers the squared error."""
    best, best_error = scale, torch.full(scale.shape, float("inf"))
    for shrink in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7):
        trial = (scale.float() * shrink).clamp_min(6e-8).half()
        step = trial.float()[..., None]
        error = ((parts / step).round().clamp(-top, top) * step - parts).square().sum(-1)
        better = error < best_error
        best, best_error = torch.where(better, trial, best), torch.where(better, error, best_error)
    return best


def expand_rows(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Inverse of ``quantise_rows``: float32 [rows, columns]. 4-bit codes are those of type uint8."""
    if codes.dtype == torch.uint8:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1).to(torch.int8) - 8
    rows, columns = codes.shape
    parts = codes.reshape(rows, scale.shape[1], columns // scale.shape[1]).float()
    return (parts * scale.float()[..., None]).reshape(rows, columns)


def forward(
    weights: dict[str, torch.Tensor], words: torch.Tensor, mask: torch.Tensor, heads: int, eps: float
) -> torch.Tensor:
    """Sentence vectors of a padded batch.

    Args:
        weights: float32 tensors, named as in the original checkpoint.
        words: float [B, T, C], word embeddings already looked up.
        mask: bool [B, T], True where there is a token.
    Returns:
        float [B, C], each of length 1.
    """
    batch, tokens, channels = words.shape

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (channels,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.view(batch, tokens, heads, -1).transpose(1, 2)  # [B, heads, T, C / heads]

    place = (
        weights["embeddings.position_embeddings.weight"][:tokens]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(words + place, "embeddings.LayerNorm")
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        at = f"encoder.layer.{layer}"
        query, key, value = (split(dense(x, f"{at}.attention.self.{part}")) for part in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        mixed = dense(mixed.transpose(1, 2).reshape(batch, tokens, channels), f"{at}.attention.output.dense")
        x = norm(x + mixed, f"{at}.attention.output.LayerNorm")
        inner = F.gelu(dense(x, f"{at}.intermediate.dense"))
        x = norm(x + dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        layer += 1
    kept = mask[..., None].float()
    return F.normalize((x * kept).sum(1) / kept.sum(1), dim=-1)


class SentenceEncoder:
    """Turns sentences into unit vectors; similar meanings lie close together.

    Args:
        folder: holds config.json, model.safetensors and tokenizer.json.
    Raises:
        ModelError: a file is missing, damaged, or of another format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        config = self._read_config()
        self.max_tokens: int = config["max_tokens"]
        self.size: int = config["hidden_size"]
        self.heads: int = config["num_attention_heads"]
        self.eps: float = config["layer_norm_eps"]
        self.layers: int = config["num_hidden_layers"]
        self._tokenizer = self._read_tokenizer()
        self._read_weights(config)

    def _fail(self, what: str) -> ModelError:
        return ModelError(
            f"the text encoder in {self.folder} cannot be used: {what}", "reinstall mirage-cli, or run: mirage doctor"
        )

    def _read_config(self) -> dict:
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._fail(f"config.json: {error}") from error
        if not isinstance(config, dict) or config.get("format") != FORMAT or config.get("version") != 1:
            raise self._fail(f"config.json is not {FORMAT!r} version 1")
        return config

    def _read_tokenizer(self):
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception on any bad file
            raise self._fail(f"tokenizer.json: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    def _read_weights(self, config: dict) -> None:
        try:
            stored = load_file(self.folder / "model.safetensors")
        except (OSError, SafetensorError, ValueError) as error:
            raise self._fail(f"model.safetensors: {error}") from error
        self._weights: dict[str, torch.Tensor] = {}
        try:
            # Word embeddings stay packed: a prompt looks up a few rows out of 30,000.
            self._word_codes = stored.pop("embeddings.word_embeddings.weight")
            self._word_scale = stored.pop("embeddings.word_embeddings.weight.scale")
            for name, tensor in stored.items():
                if name.endswith(".scale"):
                    continue
                scale = stored.get(f"{name}.scale")
                self._weights[name] = tensor.float() if scale is None else expand_rows(tensor, scale)
            words = torch.zeros(1, 2, self.size) + self._words(torch.zeros(1, 2, dtype=torch.long))
            probe = forward(self._weights, words, torch.ones(1, 2, dtype=torch.bool), self.heads, self.eps)
        except (KeyError, RuntimeError) as error:
            raise self._fail(f"model.safetensors does not hold this network: {error}") from error
        layers = sum(name.endswith("intermediate.dense.weight") for name in self._weights)
        if layers != self.layers or self._word_codes.shape[0] != config["vocab_size"]:
            raise self._fail(
                f"model.safetensors has {layers} layers and {self._word_codes.shape[0]} words, "
                f"config.json says {self.layers} and {config['vocab_size']}"
            )
        if self._tokenizer.get_vocab_size() != config["vocab_size"]:
            raise self._fail(
                f"tokenizer.json has {self._tokenizer.get_vocab_size()} words, config.json says {config['vocab_size']}"
            )
        if not torch.isfinite(probe).all() or not all(torch.isfinite(t).all() for t in self._weights.values()):
            raise self._fail("model.safetensors holds NaN or infinite values")

    def _words(self, ids: torch.Tensor) -> torch.Tensor:
        """Word embeddings float32 [B, T, C] of ids int64 [B, T]."""
        flat = ids.flatten()
        return expand_rows(self._word_codes[flat], self._word_scale[flat]).view(*ids.shape, self.size)

    def tokens(self, sentence: str) -> list[str]:
        """The word pieces that the encoder sees, without its start and end marks."""
        return self._tokenizer.encode(sentence, add_special_tokens=False).tokens

    @torch.inference_mode()
    def encode(self, sentences: list[str]) -> np.ndarray:
        """Unit vectors float32 [len(sentences), size]; tokens past ``max_tokens`` are not read.

        Sentences must be valid Unicode (no lone surrogates).
        """
        if not sentences:
            return np.zeros((0, self.size), np.float32)
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(sentences))]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, values in enumerate(rows):
            ids[row, : len(values)] = torch.tensor(values)
            mask[row, : len(values)] = True
        return forward(self._weights, self._words(ids), mask, self.heads, self.eps).numpy()
