"""From a prompt to looks: ``PromptReader.match("like a mosaic") -> {"mosaic": 1.0}``.

The sentence encoder (``encoder.py``) places the prompt among the training paraphrases of every
look; a kernel ridge classifier over these paraphrases, fitted by ``training/text_encoder.py`` and
stored beside ``looks.json``, picks the look. How near the prompt is to that look's closest
paraphrase (a cosine) says whether it is a look we know at all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mirage_cli.errors import ModelError
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.prompts.encoder import SentenceEncoder
from mirage_cli.prompts.grammar import MAX_CHARACTERS, bare_request, clean, drop_negated, single_phrase, split_prompt

CLASSIFIER_FILE = "looks.safetensors"
ENCODER_NAME = "text-encoder"


@dataclass(frozen=True)
class Look:
    """One look of a model, as written in its looks.json.

    Attributes:
        id: name used on the command line and in weights.
        title, description: for people; one plain sentence each at most.
        prompt: an example of what a user types.
        names: short names; two of them joined by "and" or a comma make a mixture.
        train: paraphrases that the classifier is built from.
        held_out: paraphrases that only tests and the model card use.
    """

    id: str
    title: str
    description: str
    prompt: str
    names: tuple[str, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class PromptMatch:
    """What a prompt was taken for.

    Attributes:
        weights: look id -> weight, all above 0, sum 1; one entry unless the prompt names several.
        look: the look with the largest weight.
        similarity: cosine of the prompt to the nearest training paraphrase of the look; the
            smallest of the parts' for a mixture. About 1 is the very wording.
        known: False where the similarity is below the model's threshold: the look is a guess.
        message: one plain sentence for the user.
    """

    weights: dict[str, float]
    look: str
    similarity: float
    known: bool
    message: str


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot read the looks in {path}: {error}", "reinstall mirage-cli, or run: mirage doctor"
        ) from error


def _read_look(entry: dict[str, Any]) -> Look:
    """One look of a looks.json.

    Raises:
        TypeError: a key too many or too few; ValueError: a value that is not text, or not a list of texts.
    """
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    look = Look(**values)
    single, several = (look.id, look.title, look.description, look.prompt), (look.names, look.train, look.held_out)
    lists = all(isinstance(texts, tuple) for texts in several)
    if not lists or not all(isinstance(text, str) for text in (*single, *itertools.chain(*several))):
        raise ValueError(f"look {look.id!r} holds a value that is not text")
    return look


def read_looks(path: str | Path) -> list[Look]:
    """The looks of a model, in the order of its weights.

    Args:
        path: looks.json, or the model's folder.
    Raises:
        ModelError: missing, damaged or of another format.
    """
    path = Path(path)
    path = path / "looks.json" if path.is_dir() else path
    document = _read_json(path)
    try:
        if document["format"] != 1:
            raise ValueError(f"format {document['format']!r} is not 1")
        looks = [_read_look(entry) for entry in document["looks"]]
        if len({look.id for look in looks}) != len(looks) or not looks:
            raise ValueError("look ids are missing or repeated")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a list of looks: {error}", "reinstall mirage-cli, or run: mirage doctor"
        ) from error
    return looks


def paraphrase_digest(looks: list[Look]) -> str:
    """SHA-256 over ids and training paraphrases: ties a classifier to the looks it was built from."""
    return hashlib.sha256(json.dumps([[look.id, look.train] for look in looks]).encode()).hexdigest()


def plain_form(text: str) -> str:
    """Lower case, words only, one spelling of colour: for comparing wordings exactly."""
    text = " ".join(re.findall(r"\w+", text.lower()))
    return re.sub(r"colour", "color", text)


class PromptReader:
    """Finds the look or looks that a prompt names.

    Args:
        model: name or folder of the model whose looks are meant.
        encoder: name or folder of the sentence encoder.
    Raises:
        ModelError: a file is missing, damaged, or does not belong with the others.
    """

    def __init__(self, model: str | Path = "lsd-small", encoder: str | Path = ENCODER_NAME) -> None:
        folder = _folder(model)
        self.looks = read_looks(folder)
        self.ids = [look.id for look in self.looks]
        self.encoder = SentenceEncoder(_folder(encoder))
        self._phrases = [phrase for look in self.looks for phrase in look.train]
        self._owner = np.repeat(np.arange(len(self.looks)), [len(look.train) for look in self.looks])
        self._exact = {plain_form(phrase): int(row) for phrase, row in zip(self._phrases, self._owner)}
        self._names: dict[str, int] = {}
        for row, look in enumerate(self.looks):
            for name in (look.id, look.title, look.prompt, *look.names):
                self._names[plain_form(name)] = row
        self._exact |= self._names
        self._read_classifier(folder / CLASSIFIER_FILE)

    def _read_classifier(self, path: Path) -> None:
        def fail(what: str) -> ModelError:
            return ModelError(
                f"the prompt classifier {path} cannot be used: {what}", "reinstall mirage-cli, or run: mirage doctor"
            )

        try:
            with safe_open(path, "np") as file:
                about = file.metadata() or {}
                codes, scale = file.get_tensor("phrases"), file.get_tensor("phrases.scale")
                self._alpha = file.get_tensor("alpha").astype(np.float32)  # [N, looks]
            looks, digest = json.loads(about["looks"]), about["digest"]
            self._beta, self.threshold = float(about["beta"]), float(about["threshold"])
            self.identity_threshold = float(about["identity_threshold"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise fail(str(error) or type(error).__name__) from error
        if looks != self.ids or digest != paraphrase_digest(self.looks):
            raise fail("it was built from other looks than looks.json lists")
        self._vectors = codes.astype(np.float32) * scale.astype(np.float32)  # [N, C], about unit length
        if self._vectors.shape != (len(self._phrases), self.encoder.size) or self._alpha.shape != (
            len(self._phrases),
            len(looks),
        ):
            raise fail(f"its shapes are {self._vectors.shape} and {self._alpha.shape}")
        if not (np.isfinite(self._vectors).all() and np.isfinite(self._alpha).all()):
            raise fail("it holds NaN or infinite values")
        # Also runs the encoder once, so that the first prompt of a live session is quick.
        probe = self.encoder.encode([bare_request(self._phrases[0])])[0]
        if float(probe @ self._vectors[0]) < 0.99:
            raise fail("it was built with another text encoder")

    def scores(self, phrases: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Classifier scores and nearest-paraphrase cosines, each float32 [len(phrases), looks].

        Kernel ridge regression on one-hot looks with kernel exp(beta (cos - 1)): Hastie et al.,
        Elements of Statistical Learning, eq. 5.50 and 14.
        """
        cosine = self.encoder.encode([bare_request(phrase) for phrase in phrases]) @ self._vectors.T
        score = np.exp(self._beta * (cosine - 1)) @ self._alpha
        starts = np.searchsorted(self._owner, np.arange(len(self.looks)))
        return score, np.maximum.reduceat(cosine, starts, axis=1)

    def _one(self, phrase: str) -> tuple[int, float]:
        """Row of the look and the cosine to its nearest paraphrase."""
        exact = self._exact.get(plain_form(phrase), self._exact.get(plain_form(bare_request(phrase))))
        if exact is not None:
            return int(exact), 1.0
        score, near = (values[0] for values in self.scores([phrase]))
        order = np.argsort(-score)
        row = int(order[0])
        # Nobody should get an untouched video by accident.
        if self.ids[row] == IDENTITY and near[row] < self.identity_threshold:
            row = int(order[1])
        return row, float(np.clip(near[row], -1, 1))

    def match(self, prompt: str) -> PromptMatch:
        """The look, or the mixture of looks, that a prompt asks for.

        Never fails on odd text: an unknown wording takes the nearest look, ``known`` is False and
        the message says so.

        Raises:
            UsageProblem: nothing visible in the prompt, or a written weight that makes no sense.
        """
        text = clean(prompt)
        if plain_form(text) not in self._exact:
            text = drop_negated(text)
            mixture = self._mixture(text)
            if mixture is not None:
                return mixture
        phrase = single_phrase(text)
        row, similarity = self._one(phrase)
        look, known = self.ids[row], similarity >= self.threshold
        if known:
            message = f"{_quote(phrase)} is taken as the look {look} (similarity {similarity:.2f})"
        else:
            message = (
                f"no look is known for {_quote(phrase)}; the nearest is {look} (similarity {similarity:.2f}, "
                f"{self.threshold:.2f} or more counts as known); mirage models lists the looks"
            )
        # The tokenizer stops at its limit, so a prompt that fills it may have been cut there.
        if len(text) >= MAX_CHARACTERS or len(self.encoder.tokens(phrase)) > self.encoder.max_tokens - 2:
            message += f"; only the first {self.encoder.max_tokens - 2} word pieces of the prompt were read"
        return PromptMatch({look: 1.0}, look, similarity, known, message)

    def _mixture(self, text: str) -> PromptMatch | None:
        split = split_prompt(text)
        if split is None:
            return None
        if split.kind == "weak":
            # "black and white" is not a mixture; "watercolour and comic" names two looks outright.
            rows = {self._names.get(plain_form(bare_request(phrase))) for _, phrase in split.parts}
            if None in rows or len(rows) != len(split.parts):
                return None
        weights: dict[str, float] = {}
        nearest, unread = 1.0, []
        for weight, phrase in split.parts:
            row, similarity = self._one(phrase)
            if similarity < self.threshold:
                unread.append(phrase)
                continue
            weights[self.ids[row]] = weights.get(self.ids[row], 0.0) + weight
            nearest = min(nearest, similarity)
        if not weights:
            return None
        total = sum(weights.values())
        weights = {look: weight / total for look, weight in weights.items()}
        look = max(weights, key=weights.__getitem__)
        shares = " and ".join(f"{100 * weight:.0f}% {name}" for name, weight in weights.items())
        message = f"{_quote(text)} is taken as {shares} (similarity at least {nearest:.2f})"
        if unread:
            message += "; no look is known for " + " and ".join(map(_quote, unread)) + ", left out"
        return PromptMatch(weights, look, nearest, not unread, message)


def _quote(text: str) -> str:
    return f"'{text if len(text) <= 60 else text[:57] + '...'}'"


def _folder(name_or_path: str | Path) -> Path:
    """A ``Path`` is taken as it is; a string is a name of the catalogue or a path."""
    if isinstance(name_or_path, Path):
        return name_or_path
    from mirage_cli.models.catalog import model_dir

    return model_dir(name_or_path)
