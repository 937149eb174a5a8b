"""Makes the files that read prompts: the small sentence encoder and the look classifier.

    python -m mirage_cli.training.text_encoder encoder --source MINILM_FOLDER
    python -m mirage_cli.training.text_encoder looks
    python -m mirage_cli.training.text_encoder report --source MINILM_FOLDER --user tests/data/prompts_user.json

``encoder`` packs the original float16 weights, ``looks`` fits the classifier to the training
paraphrases in looks.json and sets its thresholds by cross-validation, ``report`` prints the
tables of models/text-encoder/MODEL_CARD.md as JSON. Only ``report`` reads held-out paraphrases.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file

from mirage_cli.errors import MirageError, ModelError
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.prompts.encoder import FORMAT, SentenceEncoder, quantise_rows
from mirage_cli.prompts.grammar import bare_request
from mirage_cli.prompts.reader import CLASSIFIER_FILE, Look, PromptReader, paraphrase_digest, plain_form, read_looks

MAX_TOKENS = 64  # a look is named within 62 tokens, and 128 would cost 50 ms a prompt

# (bits, columns a scale) of the word embeddings and of the layers. The first is what ships.
FORMS = {
    "words 4 bit / 32, layers 8 bit / row": ((4, 32), (8, None)),
    "words 8 bit / row, layers 8 bit / row": ((8, None), (8, None)),
    "words 4 bit / row, layers 8 bit / row": ((4, None), (8, None)),
    "words 4 bit / 32, layers 4 bit / 32": ((4, 32), (4, 32)),
    "float16, as published": (None, None),
}
SHIPPED_FORM = next(iter(FORMS))

# Chosen by five-fold cross-validation over the training paraphrases (see ``cross_validate``).
BETA, RIDGE = 2.0, 0.05

REQUESTS = ("make it look like {}", "{} style", "in the style of {}", "turn my video into {}", "{}, please")


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        part.chmod(0o644)  # some writers make private files
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def pack_encoder(source: Path, target: Path, form: str = SHIPPED_FORM) -> int:
    """Writes config.json, tokenizer.json and model.safetensors; gives their size in bytes.

    Left out, because no prompt can reach them: the ``[unused*]`` words and the positions past
    ``MAX_TOKENS``.

    Raises:
        ModelError: ``source`` does not hold the published network.
    """
    try:
        weights = load_file(source / "model_fp16.safetensors")
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise ModelError(
            f"no sentence encoder in {source}: {error}",
            "give a folder with config.json, tokenizer.json and model_fp16.safetensors",
        ) from error
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    kept = [(word, row) for word, row in vocabulary if not word.startswith("[unused")]
    rows = {row: place for place, (_, row) in enumerate(kept)}
    tokenizer["model"]["vocab"] = {word: place for place, (word, _) in enumerate(kept)}
    for token in tokenizer["added_tokens"]:
        token["id"] = rows[token["id"]]
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [rows[row] for row in token["ids"]]
    tokenizer["padding"] = None
    tokenizer["truncation"]["max_length"] = MAX_TOKENS

    words, positions = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    weights[words] = weights[words][[row for _, row in kept]]
    weights[positions] = weights[positions][:MAX_TOKENS].clone()
    word_form, layer_form = FORMS[form]
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        storage = word_form if name == words else layer_form if "encoder.layer" in name and tensor.ndim == 2 else None
        if storage is None:
            packed[name] = tensor.half()
        else:
            packed[name], packed[f"{name}.scale"] = quantise_rows(tensor, *storage)
    if word_form is None:  # the loader wants codes and scales; a scale of 1 keeps float16 exact
        packed[f"{words}.scale"] = torch.ones(len(kept), 1, dtype=torch.float16)
    target.mkdir(parents=True, exist_ok=True)
    about = {
        "format": FORMAT,
        "version": 1,
        "name": "all-MiniLM-L6-v2",
        "storage": form,
        "vocab_size": len(kept),
        "max_tokens": MAX_TOKENS,
        **{
            key: config[key]
            for key in (
                "hidden_size",
                "num_attention_heads",
                "num_hidden_layers",
                "intermediate_size",
                "layer_norm_eps",
                "hidden_act",
            )
        },
        "pooling": "mean over tokens, then L2 norm",
        "licence": "Apache-2.0",
    }
    _replace(target / "model.safetensors", lambda part: save_file(packed, part, {"format": "pt"}))
    _replace(
        target / "tokenizer.json",
        lambda part: part.write_text(
            json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
        ),
    )
    _replace(target / "config.json", lambda part: part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8"))
    return sum((target / name).stat().st_size for name in ("model.safetensors", "tokenizer.json", "config.json"))


# --- classifier ------------------------------------------------------------------------------------


def solve(vectors: np.ndarray, owner: np.ndarray, looks: int, beta: float = BETA, ridge: float = RIDGE) -> np.ndarray:
    """Kernel ridge weights [N, looks] for unit vectors [N, C] of looks ``owner`` [N]."""
    kernel = np.exp(beta * (vectors @ vectors.T - 1)).astype(np.float64)
    return np.linalg.solve(kernel + ridge * np.eye(len(vectors)), np.eye(looks)[owner]).astype(np.float32)


def folds(owner: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A fold number for each phrase; every look is spread evenly over the folds."""
    fold = np.zeros(len(owner), int)
    for row in range(owner.max() + 1):
        mine = rng.permutation(np.flatnonzero(owner == row))
        fold[mine] = np.arange(len(mine)) % count
    return fold


def cross_validate(
    vectors: np.ndarray,
    owner: np.ndarray,
    rng: np.random.Generator,
    beta: float = BETA,
    ridge: float = RIDGE,
    count: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """For each phrase, the look predicted without its fold, and the cosine to the nearest phrase
    of that look outside its fold."""
    fold, looks = folds(owner, count, rng), owner.max() + 1
    picked, near = np.zeros(len(owner), int), np.zeros(len(owner), np.float32)
    for number in range(count):
        rest, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        cosine = vectors[test] @ vectors[rest].T
        picked[test] = (np.exp(beta * (cosine - 1)) @ solve(vectors[rest], owner[rest], looks, beta, ridge)).argmax(1)
        near[test] = np.where(owner[rest][None] == picked[test][:, None], cosine, -1).max(1)
    return picked, near


def encode_all(encoder: SentenceEncoder, phrases: list[str], batch: int = 64) -> np.ndarray:
    """Unit vectors of bare phrases [N, C]; sorted by length so that little is padded."""
    bare = [bare_request(phrase) for phrase in phrases]
    order = sorted(range(len(bare)), key=lambda row: len(bare[row]))
    out = np.zeros((len(bare), encoder.size), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        out[rows] = encoder.encode([bare[row] for row in rows])
    return out


def fit_looks(folder: Path, encoder: SentenceEncoder, rng: np.random.Generator) -> dict:
    """Writes the classifier next to looks.json; returns what cross-validation says of it."""
    looks = read_looks(folder)
    unrelated = json.loads((folder / "looks.json").read_text(encoding="utf-8"))["unrelated"]
    phrases = [phrase for look in looks for phrase in look.train]
    owner = np.repeat(np.arange(len(looks)), [len(look.train) for look in looks])
    _refuse_repeats(looks)
    codes, scale = quantise_rows(torch.from_numpy(encode_all(encoder, phrases)), 8)
    vectors = codes.numpy().astype(np.float32) * scale.numpy().astype(np.float32)  # as the reader sees them
    alpha = solve(vectors, owner, len(looks))

    picked, near = cross_validate(vectors, owner, rng)
    cosine = encode_all(encoder, unrelated) @ vectors.T
    stray = owner[(cosine * (owner != len(looks) - 1)).argmax(1)], cosine.max(1)
    # Known: the cosine at which as large a share of look phrases falls below as of unrelated ones above.
    grid = np.arange(0.30, 0.80, 0.005)
    balance = [abs((near < level).mean() - (stray[1] >= level).mean()) for level in grid]
    threshold = float(grid[int(np.argmin(balance))])
    nothing = [look.id for look in looks].index(IDENTITY)
    astray = np.concatenate((near[(picked == nothing) & (owner != nothing)], cosine[:, owner == nothing].max(1)))
    identity_threshold = float(max(threshold, np.quantile(astray, 0.95)))
    about = {
        "format": "pt",
        "looks": json.dumps([look.id for look in looks]),
        "digest": paraphrase_digest(looks),
        "beta": repr(BETA),
        "ridge": repr(RIDGE),
        "threshold": f"{threshold:.3f}",
        "identity_threshold": f"{identity_threshold:.3f}",
    }
    _replace(
        folder / CLASSIFIER_FILE,
        lambda part: save_numpy(
            {"phrases": codes.numpy(), "phrases.scale": scale.numpy(), "alpha": alpha}, part, about
        ),
    )
    return {
        "paraphrases": len(phrases),
        "looks": len(looks),
        "cross_validated_accuracy": round(float((picked == owner).mean()), 4),
        "threshold": round(threshold, 3),
        "identity_threshold": round(identity_threshold, 3),
        "look_phrases_known": round(float((near >= threshold).mean()), 4),
        "unrelated_phrases_unknown": round(float((stray[1] < threshold).mean()), 4),
        "bytes": (folder / CLASSIFIER_FILE).stat().st_size,
    }


def _refuse_repeats(looks: list[Look]) -> None:
    owner: dict[str, str] = {}
    for look in looks:
        for phrase in look.train:
            if owner.setdefault(plain_form(phrase), look.id) != look.id:
                raise ModelError(
                    f"{phrase!r} trains both {owner[plain_form(phrase)]} and {look.id}", "keep it in one of them"
                )
    for look in looks:
        for phrase in look.held_out:
            if plain_form(phrase) in owner:
                raise ModelError(
                    f"held-out {phrase!r} of {look.id} is also a training paraphrase", "take it out of train"
                )


# --- report ----------------------------------------------------------------------------------------


def accuracy(reader: PromptReader, prompts: dict[str, list[str]]) -> dict:
    """Share of prompts whose look is right, whose weights are that look alone, and that are known."""
    rows = [(look, prompt, reader.match(prompt)) for look, group in prompts.items() for prompt in group]
    return {
        "prompts": len(rows),
        "right": round(sum(m.look == look for look, _, m in rows) / len(rows), 4),
        "alone": round(sum(m.weights == {look: 1.0} for look, _, m in rows) / len(rows), 4),
        "known": round(sum(m.known for _, _, m in rows) / len(rows), 4),
        "wrong": [[prompt, look, m.look, round(m.similarity, 3)] for look, prompt, m in rows if m.look != look],
    }


def storage_table(source: Path, looks: list[Look], scratch: Path, rng_seed: int) -> list[dict]:
    """Size, cosine to float16 and accuracy of each way to store the encoder."""
    phrases = [phrase for look in looks for phrase in look.train]
    held = [(row, phrase) for row, look in enumerate(looks) for phrase in look.held_out]
    owner = np.repeat(np.arange(len(looks)), [len(look.train) for look in looks])
    sizes = {form: pack_encoder(source, scratch / str(number), form) for number, form in enumerate(FORMS)}
    vectors = {
        form: encode_all(SentenceEncoder(scratch / str(number)), phrases + [phrase for _, phrase in held])
        for number, form in enumerate(FORMS)
    }
    exact, table = vectors["float16, as published"], []
    for form, both in vectors.items():
        cosine, train, test = (both * exact).sum(1), both[: len(phrases)], both[len(phrases) :]
        picked, _ = cross_validate(train, owner, np.random.default_rng(rng_seed))
        score = np.exp(BETA * (test @ train.T - 1)) @ solve(train, owner, len(looks))
        table.append(
            {
                "form": form,
                "megabytes": round(sizes[form] / 1e6, 2),
                "cosine_mean": round(float(cosine.mean()), 5),
                "cosine_min": round(float(cosine.min()), 5),
                "cross_validated": round(float((picked == owner).mean()), 4),
                "held_out": round(float((score.argmax(1) == [row for row, _ in held]).mean()), 4),
            }
        )
    return table


def timings(model: Path, encoder: Path, clock: Callable[[], float] = time.perf_counter, runs: int = 50) -> dict:
    """Milliseconds to build a reader and to match, on the threads torch is set to."""
    started = clock()
    reader = PromptReader(model, encoder)
    load_ms = 1000 * (clock() - started)
    result = {"threads": torch.get_num_threads(), "load_ms": round(load_ms, 1)}
    for name, prompt in (
        ("short", "a misty harbour by an old english master"),
        ("mixture", "0.3*some nightly mood + 0.7*a painting in oils"),
        ("10000_characters", "swirly " * 1429),
    ):
        times = []
        for _ in range(runs):
            started = clock()
            reader.match(prompt)
            times.append(1000 * (clock() - started))
        result[f"match_{name}_ms_p50"], result[f"match_{name}_ms_p95"] = (
            round(float(np.quantile(times, q)), 2) for q in (0.5, 0.95)
        )
    return result


def report(model: Path, encoder: Path, source: Path | None, user: Path | None, scratch: Path, seed: int) -> dict:
    """Everything the model card states."""
    looks = read_looks(model)
    reader = PromptReader(model, encoder)
    held = {look.id: list(look.held_out) for look in looks}
    result: dict = {"held_out": accuracy(reader, held)}
    for form in REQUESTS:
        result.setdefault("held_out_as_request", {})[form] = accuracy(
            reader,
            {look: [form.format(prompt) for prompt in group] for look, group in held.items() if look != IDENTITY},
        )["right"]
    if user:
        document = json.loads(user.read_text(encoding="utf-8"))
        result["user"] = accuracy(reader, document["prompts"])
        matches = [(prompt, reader.match(prompt)) for prompt in document["unrelated"]]
        result["unrelated"] = {
            "prompts": len(matches),
            "unknown": round(sum(not m.known for _, m in matches) / len(matches), 4),
            "taken_as_known": [[prompt, m.look, round(m.similarity, 3)] for prompt, m in matches if m.known],
        }
    result["timings"] = timings(model, encoder)
    if source:
        result["storage"] = storage_table(source, looks, scratch, seed)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mirage_cli.training.text_encoder", description=__doc__.splitlines()[0]
    )
    parser.add_argument("job", choices=("encoder", "looks", "report"))
    parser.add_argument(
        "--source",
        type=Path,
        help="folder of the published encoder (config.json, tokenizer.json, model_fp16.safetensors)",
    )
    parser.add_argument("--encoder", type=Path, default=Path("models/text-encoder"))
    parser.add_argument("--model", type=Path, default=Path("models/lsd-small"), help="folder with looks.json")
    parser.add_argument("--user", type=Path, help="JSON with prompts (look -> list) and unrelated")
    parser.add_argument(
        "--scratch", type=Path, default=Path("runs/text-encoder"), help="where report packs the other forms"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.job == "encoder":
            if options.source is None:
                parser.error("encoder needs --source")
            result = {"bytes": pack_encoder(options.source, options.encoder), "form": SHIPPED_FORM}
        elif options.job == "looks":
            result = fit_looks(options.model, SentenceEncoder(options.encoder), np.random.default_rng(options.seed))
        else:
            result = report(options.model, options.encoder, options.source, options.user, options.scratch, options.seed)
    except MirageError as error:
        print(f"{error.message}\n{error.remedy}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
