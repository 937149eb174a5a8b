"""``docs/control.md``, made from the schema: ``python tests/helpers/control_page.py > docs/control.md``."""

from __future__ import annotations

import json

from mirage_cli.control import server
from mirage_cli.control.presets import KEYS, shipped_presets
from mirage_cli.control.prometheus import STAGES
from mirage_cli.control.schema import FIELDS, MAX_MESSAGE_BYTES, Field

ROUTES = (
    ("POST", "/api/control", "Change something; answers when it took effect."),
    ("GET", "/api/socket", "The same over a WebSocket, with the state twice a second."),
    ("GET", "/api/state", "What holds now."),
    ("GET", "/api/looks", "The looks that `blend` takes."),
    ("GET", "/api/presets", "The shipped presets."),
    ("GET", "/api/preset.toml", "What holds now as a preset file."),
    ("GET", "/api/schema", "This page's table as a JSON Schema."),
    ("POST", "/api/login", 'A browser\'s `{"token": "..."}` for a session cookie.'),
    ("GET", "/metrics", "Counters and latency histograms in Prometheus' text form."),
    ("GET", "/", "The preview page (with `--preview`)."),
    ("GET", "/preview.mjpg", "The styled stream as Motion JPEG (with `--preview`)."),
)

_HEAD = """# Control

*Made from `mirage_cli/control/schema.py` by `python tests/helpers/control_page.py > docs/control.md`; a test
fails when it is out of date.*

While `mirage live` runs, its prompt, strength and more can be changed: at the keyboard, in a browser, by a
program over HTTP or a WebSocket, and by OSC. All four take the same fields, check them by the same
table and answer with the number of the first frame (counted from 0) that was made with the change.

```sh
# A page in the browser that shows the stream and steers it
mirage live --input test --prompt "ink wash" --preview 8765

# No page, for programs only; and OSC for faders
mirage live --input test --prompt "ink wash" --no-window --control 8765 --osc 9000
```

The socket needs two more libraries: `pip install -c constraints.txt -e '.[control]'` in a clone.

## What can be set
"""

_FILES = """Files have names with date and time, such as `mirage-20261121-190501.mp4`; no path can be given from
outside. While paused, a change is acknowledged with the number of a frame that repeats the held picture, and
shows when the pause ends. A change that comes within a blend starts from the mix of that moment. A new
model drops prompts that were scheduled for later (`--prompt "30s:night"`).
"""

_REST = """## At the keyboard

Type a prompt, or `/field value`, and Enter. Besides the fields there are `/save FILE` (a preset of
what holds now) and `q`.

    > ink wash
    > /strength 0.5
    > /blend ink-wash=0.7 starry-night=0.3
    > /pause            /pause off
    > /preset soft-watercolour
    > /save my-look.toml

## HTTP

```sh
curl -s -H 'Content-Type: application/json' -d '{"strength": 0.5, "id": 1}' http://127.0.0.1:8765/api/control
```

answers

```json
{"ok": true, "frame": 412, "applied": {"strength": 0.5}, "notes": [], "waited_frames": 1, "from": "http", "id": 1}
```

`notes` says how a prompt was understood and where a file went; `waited_frames` counts the frames between
the message's arrival and the change. What is refused comes back as
`{"ok": false, "error": {"message": ..., "remedy": ...}}` with status 400 (not allowed), 401 (no token), 403
(foreign page), 408 (slow), 409 (cannot be done now), 413 (too big), 429 (too much), 503 (too many
clients) or 504 (not done in time, and withdrawn).

%(routes)s

## WebSocket

Send the same objects as text to `ws://127.0.0.1:8765/api/socket`. Each message that comes back has a `type`:
`answer` (to a message of yours, with its `id`), `applied` (a change that anyone made) or `state`.

```python
import asyncio, json, aiohttp


async def main():
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect("http://127.0.0.1:8765/api/socket") as socket:
            await socket.send_json({"prompt": "stained glass", "id": 1})
            async for message in socket:
                data = json.loads(message.data)
                if data["type"] == "answer":
                    print("applied at frame", data["frame"])
                    break


asyncio.run(main())
```

## OSC

`--osc PORT` listens on UDP. The address is `/mirage/` and a field, the argument its value:
`/mirage/strength 0.5`, `/mirage/prompt "ink wash"`, `/mirage/blend/ink-wash 1.0`, `/mirage/pause 1`. A button
may send 1 and 0; the 0 of `snapshot` or `reset` does nothing. The answer goes to the sender:
`/mirage/applied "strength" 412`, or `/mirage/refused "why"`. Of several values for one field within one
frame the last counts.

## Presets

A preset is a TOML file of the keys %(keys)s and `about`; flags win over it, it wins over `--config`.

```sh
# What is shipped
mirage presets

# One of them, softer, in a file of its own
mirage presets --preset soft-watercolour --strength 0.4 --about "for text" --save softer.toml

# Used, from its name or its file
mirage live --input test --preset neon-club --no-window --duration 5 -o neon.mp4
```

%(presets)s

## Metrics

`/metrics` has frames in, out and dropped, frames a second, guard events, cuts, control messages, and
`mirage_latency_seconds`, a histogram for each of %(stages)s. Its buckets are right to 1%%.

    scrape_configs:
      - job_name: mirage
        static_configs: [{targets: ["127.0.0.1:8765"]}]

## Who may steer

Ports are open to this machine alone unless a host is given (`--control 0.0.0.0:8765`), and then a token of 16
characters or more is required:

    MIRAGE_CONTROL_TOKEN=$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))') \\
        mirage live --camera 0 --prompt "ink wash" --preview 0.0.0.0:8765

Programs send it as `Authorization: Bearer TOKEN`; the page asks for it, or takes it from its own address,
`http://host:8765/#token=TOKEN`, which it then clears. In OSC it is a part of the address:
`/mirage/TOKEN/strength`; on loopback OSC needs none. Nothing here is encrypted: across a network that is not
yours, use a tunnel (`ssh -L 8765:127.0.0.1:8765 host`).

On this machine any program of any user can reach a port without a token; give one where that matters.
Pages of other sites cannot: a request is refused when its `Host` is a name that is not this machine's (DNS
rebinding), when its `Origin` is another, and when the browser says it comes from another site; no
answer grants cross-origin access, and a change must be `application/json`.

Limits: %(limits)s. A client that takes more than %(slow)g s to send a body or to take what it is sent is
disconnected. Nothing that a client does can hold up the stream: the model only ever takes what is ready
between two frames.
"""


def _table(rows: list[tuple[str, ...]], heads: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _row(field: Field) -> tuple[str, ...]:
    typed = f"/{field.name.replace('_', '-')}"
    if field.kind == "weights":
        typed += " " + " ".join(f"{look}={weight}" for look, weight in field.example.items())
    elif field.kind not in ("switch", "trigger"):
        typed += f" {field.example}"
    return (
        f"`{field.name}`",
        field.about,
        field.allowed(),
        f"`{json.dumps({field.name: field.example})}`",
        f"`{typed}`",
    )


def control_page() -> str:
    """The page, whole."""
    fields = _table([_row(field) for field in FIELDS], ("field", "what", "allowed", "JSON", "keyboard"))
    values = {
        "routes": _table([(method, f"`{path}`", about) for method, path, about in ROUTES], ("", "path", "what")),
        "keys": ", ".join(f"`{key}`" for key in KEYS),
        "presets": _table([(f"`{p.name}`", p.about) for p in shipped_presets()], ("preset", "what")),
        "stages": ", ".join(f"`{stage}`" for stage in STAGES),
        "limits": f"messages of {MAX_MESSAGE_BYTES} bytes; {server.REQUESTS[0]:g} requests a second from an address "
        f"and {server.MESSAGES[0]:g} messages a second on a socket, twice that at once; "
        f"{server.MAX_CONNECTIONS} connections, {server.MAX_SOCKETS} sockets, {server.MAX_STREAMS} preview streams",
        "slow": server.SLOW_SECONDS,
    }
    note = "A message sets one field or several; all of them take effect by the frame that is answered."
    return f"{_HEAD}\n{fields}\n\n{note} `id` (text or number) comes back\nwith the answer. {_FILES}\n{_REST % values}"


if __name__ == "__main__":
    print(control_page(), end="")
