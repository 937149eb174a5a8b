"""Bad runs of the whole command line, drawn at random: damaged media, odd flags, tampered models."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from helpers import media
from helpers.damage import mutated, mutated_json, tampered_safetensors

SEEDS = {
    "a.mp4": {"codec": "libx264"},
    "b.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "c.webm": {"codec": "libvpx-vp9", "sound": "libopus"},
    "d.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "e.ts": {"codec": "mpeg2video", "sound": "mp2"},
    "f.gif": {"codec": "gif", "pixels": "pal8", "sound": None},
    "g.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "h.flv": {"codec": "flv"},
    "i.nut": {"codec": "rawvideo", "pixels": "rgb24", "sound": "pcm_s16le"},
    "j.y4m": {"codec": "wrapped_avframe", "sound": None},
    "k.mp4": {"codec": "libx265"},
}
MAGIC = (
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    b"\x1aE\xdf\xa3",
    b"RIFF\xff\xff\xff\x7fAVI LIST",
    b"GIF89a\xff\xff\xff\xff",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x7f\xff\0\0\x7f\xff\x08\x02\0\0\0",
    b"\xff\xd8\xff\xe0",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"PK\x03\x04",
    b"\x7fELF",
    b"%PDF-1.7",
    b"#!/bin/sh\n",
    b"\x80\x04\x95",
    b"nut/multimedia container\0",
    b"FLV\x01",
    b"YUV4MPEG2 W99999999 H1 F0:0\n",
    b"BM",
    b"II*\0",
    b"FORM",
    b"G@\0\x10",
)
TEXTS = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
    "ffconcat version 1.0\nfile '/etc/passwd'\nfile 'loop.ffconcat'\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n",
    "<?xml version='1.0'?><MPD></MPD>",
    "[Script Info]\n",
    ";FFMETADATA1\ntitle=x\n",
    "<svg width='99999' height='99999'/>",
    "\ufeff",
    "{}",
    "\0" * 100,
)
SUFFIXES = (
    ".mp4",
    ".mkv",
    ".webm",
    ".avi",
    ".ts",
    ".gif",
    ".mov",
    ".m3u8",
    ".ffconcat",
    ".png",
    ".jpg",
    ".txt",
    ".sdp",
    ".mpd",
    ".svg",
    "",
    ".MP4",
    ".wav",
    ".y4m",
    ".h264",
    ".yuv",
)
OUTPUTS = (".mp4", ".mkv", ".webm", ".gif", ".avi", ".ts", ".mov", ".m4v")
ODD = (
    "",
    " ",
    "0",
    "-1",
    "1",
    "1e9",
    "nan",
    "inf",
    "-0",
    "99999999999999999999",
    "0x10",
    "1:2:3:4",
    "a",
    "\0",
    "é",
    "\n",
    "1/0",
    "16x16",
    "17x31",
    "0x0",
    "8192x8192x1",
    "native",
    "5s",
    "-5s",
    "%s%n",
    "{}",
    "[]",
    "true",
    "./",
    "-",
    "--",
)


class Maker:
    """Makes bad cases from good files; ``folder`` keeps those."""

    def __init__(self, folder: Path) -> None:
        self.good: dict[str, bytes] = {}
        for name, options in SEEDS.items():
            path = media.clip(folder / name, seconds=0.4, size=(64, 48), fps=10, **options)
            self.good[name] = path.read_bytes()
        self.good["p.png"] = media.ffmpeg(
            "-i", folder / "a.mp4", "-frames:v", 1, "-f", "image2pipe", "-c:v", "png", "-"
        )
        self.whole = folder / "a.mp4"
        self.model = tiny_model(folder / "model")

    def case(self, draw: random.Random, folder: Path) -> tuple[str, list[str], dict[str, str], bytes | None]:
        """(kind, arguments, environment, standard input) of one bad run in ``folder``."""
        out = folder / f"out{draw.choice(OUTPUTS)}"
        common = ["-p", "ink wash", "--device", "cpu", "-o", str(out)]
        kind = draw.choices(("media", "flags", "config", "model", "stdin", "live"), (60, 12, 8, 12, 3, 5))[0]
        if kind == "media":
            return kind, ["transform", str(self.media(draw, folder)), *common, *self.flags(draw, 0.3)], {}, None
        if kind == "live":
            extra = ["--duration", "3", "--no-window"]
            return kind, ["live", "--input", str(self.media(draw, folder)), *common, *extra], {}, None
        if kind == "stdin":
            name = draw.choice(sorted(self.good))
            return kind, ["transform", "-", *common], {}, mutated(self.good[name], draw, self.good["a.mp4"])
        if kind == "model":
            model = self.tampered_model(draw, folder)
            return kind, ["transform", str(self.whole), *common, "--model", str(model)], {}, None
        source = ["transform", str(self.whole)]
        if kind == "config":
            file = folder / "mirage.toml"
            file.write_bytes(self.config(draw))
            return kind, [*source, *common, "--config", str(file)], {}, None
        environment = {}
        if draw.random() < 0.3:
            name = draw.choice(
                ("SIZE", "STRENGTH", "SEED", "STEPS", "PROMPT", "FPS", "CODEC", "CRF", "DEVICE", "MODEL")
            )
            environment[f"MIRAGE_{name}"] = draw.choice(ODD).replace("\0", "")
        if draw.random() < 0.4:
            common[1] = self.prompt(draw)
        return kind, [*source, *common, *self.flags(draw, 0.9)], environment, None

    def media(self, draw: random.Random, folder: Path) -> Path:
        name = draw.choice(sorted(self.good))
        suffix = os.path.splitext(name)[1] if draw.random() < 0.8 else draw.choice(SUFFIXES)
        path = folder / f"{draw.choice(('in', 'in put', 'in%03d', 'in:a'))}{suffix}"
        match draw.randrange(10):
            case 0:
                path.write_bytes(draw.choice(MAGIC) + draw.randbytes(draw.choice((0, 7, 300, 5000))))
            case 1:
                path.write_text(draw.choice(TEXTS), "utf-8")
            case 2:
                path.write_bytes(draw.randbytes(draw.choice((0, 1, 100, 10000))))
            case 3:
                first, second = (self.good[draw.choice(sorted(self.good))] for _ in range(2))
                path.write_bytes(first[: draw.randrange(len(first))] + second[draw.randrange(len(second)) :])
            case _:
                path.write_bytes(mutated(self.good[name], draw, self.good[draw.choice(sorted(self.good))]))
        return path

    def flags(self, draw: random.Random, share: float) -> list[str]:
        names = (
            "--size",
            "--start",
            "--duration",
            "--fps",
            "--codec",
            "--crf",
            "--strength",
            "--steps",
            "--seed",
            "--blend-seconds",
            "--dtype",
            "--backend",
            "--compare",
            "--no-guard",
            "-q",
            "--json",
            "-x",
        )
        good = {
            "--size": ("32x32", "33x17", "native"),
            "--start": ("0.1", "9"),
            "--duration": ("0.2", "1e-9"),
            "--fps": ("5", "60", "0.02"),
            "--codec": ("h264", "ffv1", "gif", "prores"),
            "--crf": ("0", "30", "60"),
            "--strength": ("0", "0.5"),
            "--steps": ("2",),
            "--seed": ("7",),
            "--blend-seconds": ("0", "100"),
            "--dtype": ("fp32", "bf16"),
            "--backend": ("torch", "ptx"),
        }
        result: list[str] = []
        while draw.random() < share and len(result) < 6:
            name = draw.choice(names)
            result.append(name)
            if name in good:
                result.append(draw.choice(good[name] if draw.random() < 0.6 else ODD).replace("\0", "\x01"))
        return result

    def prompt(self, draw: random.Random) -> str:
        words = (
            "ink wash",
            "0:",
            "5s:",
            "1e9:",
            "+",
            "0.5*",
            "-1*",
            "nan*",
            "and",
            "no",
            "night",
            ":",
            ";",
            "*",
            "\n",
            "é" * 9,
            "x" * 3000,
            "0.5*night + 0.5*mosaic",
            "99999999:",
            "\x1b[2J",
            "🎬",
            "' \"",
            "identity",
            "%s",
            "not",
            ",",
        )
        return "".join(draw.choice(words) for _ in range(draw.randrange(5)))

    def config(self, draw: random.Random) -> bytes:
        keys = (
            "size",
            "strength",
            "seed",
            "prompt",
            "steps",
            "fps",
            "codec",
            "crf",
            "model",
            "compare",
            "transform",
            "output",
            "json",
            "debug",
            "config",
            "quiet",
            "nonsense",
            "start",
            "device",
            "guard",
        )
        values = (
            '"64x48"',
            "0.5",
            "-1",
            "[]",
            "{}",
            '""',
            "true",
            "1979-05-27",
            "[[1]]",
            "nan",
            "{a=1}",
            '["a", "b"]',
            "1e400",
            '"' + "x" * 5000 + '"',
            "0o17",
            "inf",
            "[1, 2]",
            "9223372036854775808",
        )
        lines = [f"{draw.choice(keys)} = {draw.choice(values)}" for _ in range(draw.randrange(4))]
        if draw.random() < 0.5:
            lines.insert(draw.randrange(len(lines) + 1), f"[{draw.choice(('transform', 'live', 'x', '', 'a.b'))}]")
        data = "\n".join(lines).encode()
        return mutated(data, draw) if draw.random() < 0.4 else data

    def tampered_model(self, draw: random.Random, folder: Path) -> Path:
        model = folder / "model"
        model.mkdir()
        for file in self.model.iterdir():
            (model / file.name).write_bytes(file.read_bytes())
        file = model / draw.choice(
            (
                "config.json",
                "config.json",
                "model.safetensors",
                "model.safetensors",
                "looks.json",
                "looks.safetensors",
                "manifest.json",
            )
        )
        data = file.read_bytes()
        match draw.randrange(6):
            case 0:
                file.unlink()
            case 1:
                file.write_bytes(mutated(data, draw))
            case 2:
                file.write_bytes(
                    draw.choice((b"", b"{}", b"[]", b"null", b"[" * 100000, draw.randbytes(50), b"\x80\x04\x95"))
                )
            case _ if file.suffix == ".json":
                file.write_text(json.dumps(mutated_json(json.loads(data), draw)), "utf-8")
            case _:
                file.write_bytes(tampered_safetensors(data, draw))
        return model


def tiny_model(folder: Path) -> Path:
    """A whole model folder of the shipped looks, its network small and random."""
    import torch
    from mirage_cli.models import catalog
    from safetensors.torch import save_file

    from mirage_cli.lsd.checkpoint import read_config
    from mirage_cli.lsd.model import LSDConfig, LSDNet

    shipped = catalog.MODELS_ROOT / catalog.DEFAULT_MODEL
    config = LSDConfig(
        looks=read_config(shipped).looks,
        widths=(16, 16, 64),
        encoder_blocks=(1, 1),
        middle_blocks=1,
        decoder_blocks=(1, 1),
        look_width=8,
        condition_width=16,
        memory_grid=(2, 2),
    )
    torch.manual_seed(0)
    net = LSDNet(config)
    folder.mkdir()
    for name in ("looks.json", "looks.safetensors"):
        (folder / name).write_bytes((shipped / name).read_bytes())
    document = {"format": 1, "kind": "lsd", "network": config.to_dict()}
    (folder / "config.json").write_text(json.dumps(document), "utf-8")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    catalog.write_manifest(folder)
    return folder
