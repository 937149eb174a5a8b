"""PTX as text: its entries, instructions, labels and registers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class PtxError(Exception):
    """What the kernel did wrong, or what the emulator does not know."""


@dataclass
class Instruction:
    text: str
    guard: str
    negated: bool
    name: list[str]
    operands: list


@dataclass
class Entry:
    parameters: list[tuple[str, int]] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0
    widths: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[str, Entry]:
    """Entries of a PTX text by name."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text)
    shared = re.findall(r"^\.shared[^;]+", text, re.MULTILINE)  # of functions that were inlined
    entries = {}
    for match in re.finditer(r"\.visible\s+\.entry\s+(\w+)\s*\(([^)]*)\)[^{]*\{", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        entry = Entry()
        for width, name in re.findall(r"\.param\s+\.[a-z](\d+)\s+(\w+)", match.group(2)):
            entry.parameters.append((name, int(width) // 8))
        body = text[match.end() : end - 1]
        for statement in [*(s for s in shared if re.search(r"([\w$]+)\[", s).group(1) in body), *body.split(";")]:
            _statement(entry, statement.strip())
        entries[match.group(1)] = entry
    return entries


def _statement(entry: Entry, text: str) -> None:
    while label := re.match(r"([\w$]+):\s*", text):
        entry.labels[label.group(1)] = len(entry.code)
        text = text[label.end() :]
    if not text or text.startswith(".pragma"):
        return
    if text.startswith(".reg"):
        kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.DOTALL).groups()
        width = 1 if kind == "pred" else int(kind[1:])
        for name in names.split(","):
            name = name.strip()
            if many := re.match(r"(.+)<(\d+)>", name):
                entry.widths.update({f"{many.group(1)}{i}": width for i in range(int(many.group(2)))})
            else:
                entry.widths[name] = width
        return
    if text.startswith(".shared"):
        width, name, count = re.search(r"\.[bu](\d+)\s+([\w$]+)(?:\[(\d+)\])?", text).groups()
        entry.shared[name] = entry.shared_bytes
        entry.shared_bytes += -(-int(width) // 8 * int(count or 1) // 16) * 16
        return
    guard = re.match(r"@(!?)(%\w+)\s+", text)
    body = text[guard.end() :] if guard else text
    name, _, rest = re.match(r"(\S+)(\s*)(.*)", body, re.DOTALL).groups()
    operands = [o.strip() for o in re.split(r",(?![^{]*\})", rest) if o.strip()]
    entry.code.append(
        Instruction(text, guard.group(2) if guard else "", bool(guard and guard.group(1)), name.split("."), operands)
    )
