"""Reads which looks a prompt asks for, and how much of each: ``0.3*night + 0.7*oil painting``.

Pure text work: nothing here knows which looks exist. ``split_prompt`` gives parts with weights and
says how sure the reading is; ``reader.PromptReader`` decides what the parts mean.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

from mirage_cli.errors import UsageProblem

MAX_CHARACTERS = 1000  # the encoder reads 62 word pieces, which is about 350 characters of prose
MAX_PARTS = 8

# A small share, as in "oil painting with a touch of night".
ACCENT_SHARE = 0.25


@dataclass(frozen=True)
class Split:
    """Parts of a prompt: ``(weight, phrase)`` with weights that sum to 1.

    ``kind`` is "explicit" (weights were written), "strong" (words such as "mixed with") or
    "weak" (only a comma or "and": a mixture if, and only if, each part is a look's own name).
    """

    parts: tuple[tuple[float, str], ...]
    kind: str


def clean(prompt: str) -> str:
    """One line of visible text: compatibility forms unified, control characters and lone
    surrogates turned into spaces, cut to ``MAX_CHARACTERS``.

    Raises:
        UsageProblem: the prompt is not text, or nothing visible is left of it.
    """
    if not isinstance(prompt, str):
        raise UsageProblem(f"the prompt must be text, not {type(prompt).__name__}", 'try: --prompt "oil painting"')
    # A cut well above the limit first: compatibility forms may shrink or grow the text.
    text = unicodedata.normalize("NFKC", prompt[: 4 * MAX_CHARACTERS])
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    text = " ".join(text.split())[:MAX_CHARACTERS].strip()
    if not text:
        raise UsageProblem(
            "the prompt is empty; it must hold at least one visible character",
            'try: --prompt "oil painting", or mirage models for the list of looks',
        )
    return text


# --- wording that carries no look -----------------------------------------------------------------

_THING = (
    r"(?:it|this|that|everything|me|us|(?:my|the|this|our)(?: \w+)? "
    r"(?:video|clip|footage|scene|film|movie|picture|image|camera|stream|webcam))"
)
_ASK = re.compile(
    rf"^(?:(?:please|can you|could you|i want (?:you )?to|i would like to|i'd like to|let's|just) )*"
    rf"(?:make|turn|render|transform|convert|restyle|repaint|redraw|show|give|paint|draw|put) {_THING} "
    r"(?:(?:to |that |which )?(?:look(?:s|ing)?|appear|seem) )?"
    r"(?:(?:like|as if|as|into|in|to) )?(?:(?:a|an|the) )?(?=\S)",
    re.I,
)
_LEAD = re.compile(
    r"^(?:(?:in|with|using|after) (?:a|an|the) (?:style|manner|look|spirit) (?:of|like) |in style of |in the |"
    r"(?:looks?|looking|something) like |styled? (?:as|like) |as if |like |as |an? |the )(?=\S)",
    re.I,
)
_TAIL = re.compile(
    r"[ ,]*\b(?:please|thanks|thank you|of (?:this|the|my) (?:scene|video|clip|picture)|"
    r"version|styles?|look|effect|filter|aesthetic)[.! ]*$",
    re.I,
)
_REFUSAL = re.compile(
    r"\b(?:no|not|none|never|without|any|off|remove|stop|same|original|zero|null|empty|natural|normal|"
    r"don'?t|do nothing|leave|keep|disable|undo|bypass)\b",
    re.I,
)


_NEGATED = re.compile(
    r"\s*(?:(?:[,;]|\b(?:but|and)\b)\s*(?:but\s+|and\s+)?not|\b(?:instead of|rather than))\s+[^,;+]+", re.I
)


def drop_negated(text: str) -> str:
    """Takes out what is named only to be refused: "a cartoon, not a comic" -> "a cartoon"."""
    return " ".join(_NEGATED.sub("", text).split()).strip(" ,;") or text


def bare_request(text: str) -> str:
    """The part of a request that names the look: "make it look like a mosaic, please" -> "mosaic".

    A prompt that refuses a look ("no style") keeps every word.
    """
    if _REFUSAL.search(text):
        return text
    before = None
    while before != text:
        before = text
        for pattern in (_ASK, _LEAD, _TAIL):
            shorter = pattern.sub("", text).strip(" ,.!")
            text = shorter or text
    return text


# --- weights ---------------------------------------------------------------------------------------

_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
_DECIMAL = r"(?:\d*\.\d+)"
_FRACTIONS = {
    "half": 1 / 2,
    "one half": 1 / 2,
    "a half": 1 / 2,
    "third": 1 / 3,
    "a third": 1 / 3,
    "one third": 1 / 3,
    "two thirds": 2 / 3,
    "quarter": 1 / 4,
    "a quarter": 1 / 4,
    "one quarter": 1 / 4,
    "three quarters": 3 / 4,
    "a fifth": 1 / 5,
    "one fifth": 1 / 5,
}
_WORDS = "|".join(sorted(_FRACTIONS, key=len, reverse=True))
_TERMS = (
    re.compile(rf"^(?P<weight>-?{_NUMBER})\s*(?P<percent>%)\s*(?:of\s+)?(?P<phrase>.+)$"),
    re.compile(rf"^(?P<weight>-?{_NUMBER})\s*[*×·]\s*(?P<phrase>.+)$"),
    re.compile(rf"^(?P<weight>-?{_NUMBER})\s+parts?\s+(?:of\s+)?(?P<phrase>.+)$", re.I),
    re.compile(rf"^(?P<weight>-?{_DECIMAL})\s+(?P<phrase>.+)$"),
    re.compile(rf"^(?P<fraction>{_WORDS})[\s-]+(?:of\s+)?(?P<phrase>.+)$", re.I),
    re.compile(rf"^(?P<phrase>.+?)\s*[:=*×]\s*(?P<weight>-?{_NUMBER})\s*(?P<percent>%?)$"),
    re.compile(rf"^(?P<phrase>.+?)\s*\(\s*(?P<weight>-?{_NUMBER})\s*(?P<percent>%?)\s*\)$"),
    re.compile(rf"^(?P<phrase>.+?)\s+(?P<weight>-?{_NUMBER})\s*(?P<percent>%)$"),
    re.compile(rf"^(?P<phrase>.+?)\s+(?P<weight>-?{_DECIMAL})$"),
)
_REST = re.compile(r"^(?:and )?(?:the )?(?:rest|remainder|remaining)(?: is| of it)?[: ]+(?P<phrase>.+)$", re.I)
_HARD_BREAK = re.compile(r"\s*[+,;|]\s*")
_TERM_BREAK = re.compile(r"\s*(?:,\s*and\s|[+,;&|]|\sand\s|\splus\s|\swith\s)\s*", re.I)


def _read_term(term: str) -> tuple[float | None, str]:
    term = term.strip()
    if term.startswith("(") and term.endswith(")") and term.count("(") == 1:
        term = term[1:-1].strip()
    for pattern in _TERMS:
        found = pattern.match(term)
        if found is None:
            continue
        groups = found.groupdict()
        if groups.get("fraction"):
            return _FRACTIONS[groups["fraction"].lower()], found["phrase"].strip()
        weight = float(found["weight"]) / (100 if groups.get("percent") else 1)
        if weight < 0 or not math.isfinite(weight):
            raise UsageProblem(
                f"weight {found['weight'][:20]} in the prompt is not allowed; weights are finite numbers from 0 up",
                'try: --prompt "0.3*night + 0.7*oil painting"',
            )
        return weight, found["phrase"].strip()
    return None, term


def _normalised(parts: list[tuple[float, str]], kind: str) -> Split:
    total = sum(weight for weight, _ in parts)
    if total <= 0:
        raise UsageProblem(
            "all weights in the prompt are 0; at least one must be above 0",
            'try: --prompt "0.3*night + 0.7*oil painting"',
        )
    return Split(tuple((weight / total, phrase) for weight, phrase in parts if weight > 0), kind)


def _explicit(text: str) -> Split | None:
    """Written weights. "0.5*black and white + 0.5*night" must not break at its "and", so readings
    in which every term carries its own weight come first."""
    for rest_allowed in (False, True):
        for pattern in (_TERM_BREAK, _HARD_BREAK):
            terms = [_read_term(term) for term in pattern.split(text) if term.strip()]
            without = sum(weight is None for weight, _ in terms)
            left = 1 - sum(weight for weight, _ in terms if weight is not None)
            if not 2 <= len(terms) <= MAX_PARTS or without > rest_allowed or (without and left <= 0):
                continue
            # A term without a weight takes what the others leave of the whole.
            weighed = [
                (left, _without_rest(phrase)) if weight is None else (weight, phrase) for weight, phrase in terms
            ]
            return _normalised(weighed, "explicit")
    return None


def _without_rest(phrase: str) -> str:
    """ "the rest oil painting" -> "oil painting"."""
    found = _REST.match(phrase)
    return found["phrase"] if found else phrase


# --- words that join -------------------------------------------------------------------------------

_ACCENTS = (
    re.compile(
        r"^(?:mostly|mainly|largely|primarily) (?P<main>.+?),?(?: and| with| but)? "
        r"(?:a )?(?:bit|touch|hint|dash|little|pinch|some|slightly|slight)(?: of)? (?P<accent>.+)$",
        re.I,
    ),
    re.compile(
        r"^(?P<main>.+?),?(?: and| with| plus)? (?:just )?a (?:little |tiny |small |slight )?"
        r"(?:bit|touch|hint|dash|pinch|splash) of (?P<accent>.+)$",
        re.I,
    ),
)
_BETWEEN = re.compile(
    r"^(?:an? )?(?:(?:50[/-]50 |equal )?"
    r"(?:mix|mixture|blend|fusion|combination|cross|hybrid|mash-?up|marriage)(?: of| between)|"
    r"(?:half-?way|half way|somewhere|something|in)? ?between) (?P<list>.+)$",
    re.I,
)
_LIST = re.compile(r"\s*,\s*(?:and\s)?\s*|\s+(?:and|&|with|plus)\s+|\s*\+\s*", re.I)
_JOINS = re.compile(
    r"\s+(?:(?:mixed|blended|combined|crossed|merged|fused|melted|morphed)(?: together)? (?:with|into|and)|"
    r"meets?|plus|vs\.?|versus|x|×|/|\+)\s+|\s*\+\s*",
    re.I,
)
_WEAK = re.compile(r"\s*[,;&]\s*(?:and\s)?\s*|\s+(?:and|with|at|in|in the|during)\s+", re.I)


def _even(phrases: list[str], kind: str) -> Split | None:
    phrases = [phrase.strip(" ,.") for phrase in phrases]
    phrases = [phrase for phrase in phrases if phrase]
    if not 2 <= len(phrases) <= MAX_PARTS:
        return None
    return _normalised([(1.0, phrase) for phrase in phrases], kind)


def split_prompt(text: str) -> Split | None:
    """Parts of a cleaned prompt, or None where it cannot name more than one look.

    Raises:
        UsageProblem: a written weight is negative or not finite, or all are 0.
    """
    found = _explicit(text)
    if found:
        return found
    text = bare_request(text)
    for pattern in _ACCENTS:
        match = pattern.match(text)
        if match:
            return Split(((1 - ACCENT_SHARE, match["main"].strip()), (ACCENT_SHARE, match["accent"].strip())), "strong")
    match = _BETWEEN.match(text)
    if match:
        return _even(_LIST.split(match["list"]), "strong")
    if _JOINS.search(text):
        return _even(_JOINS.split(text), "strong")
    return _even(_WEAK.split(text), "weak")


def single_phrase(text: str) -> str:
    """The phrase of a one-look prompt, without a weight that has nothing to weigh against."""
    _, phrase = _read_term(text)
    return phrase
