"""The check at the end of a run: known warps over stills never trained on, with the mean weights.

``mirage eval`` measures the saved model more thoroughly; this needs nothing that the run does not hold.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from mirage_cli.lsd.rolling import rolling
from mirage_cli.training.data import load_stills, shuffled
from mirage_cli.training.known_warps import FIRST, error_summary, known_warp

STILLS = 4


@torch.inference_mode()
def validate(trainer, period: int = 60, returns: int = 2) -> dict:
    """L1 to the teacher in every look of this process: first frames, at each return, with the past hidden.

    Writes into the run's folder sheetR.jpg (a row a look: input, target and output of the first frame
    and of one half a round on, and the last output) and validationR.json, R the process. Without
    validation stills there is nothing to measure, and the result is empty.
    """
    c, device = trainer.config, trainer.device
    stills = shuffled(load_stills(Path(c.data), "val", c.shippable_only, 0, 0), 5)[:STILLS]
    if not stills:
        trainer.say(f"no validation: {c.data} has no stills of the split val")
        return {}
    net, looks, n = trainer.mean.network(trainer.net), trainer.net.config.looks, len(stills)
    noise = torch.randn(n, 3, c.size, c.size, device=device, generator=torch.Generator(device).manual_seed(3))
    report, rows = {}, []
    for number in trainer.own:
        frames, targets = known_warp(trainer.teachers, looks[number], stills, c.banks[0][:2], c.size, period, device)
        rounds = [i % period for i in range(period * returns + FIRST)]
        mixture = torch.nn.functional.one_hot(torch.full((n,), number, device=device), len(looks)).float()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            out = list(rolling(net, (frames[i] for i in rounds), mixture, noise, 1))
            alone = list(rolling(net, frames, mixture, noise, 1, use_past=False))
        errors = torch.stack([(a - targets[i]).abs().mean() for a, i in zip(out, rounds)]).tolist()
        off = torch.stack([(a - b).abs().mean() for a, b in zip(alone, targets)]).tolist()
        report[looks[number]] = error_summary(errors, off, period)
        half = period // 2
        views = [x[i][0] for i in (0, half) for x in (frames, targets, out)]
        rows.append(torch.cat([*views, out[-1][0]], dim=-1))
    sheet = ((torch.cat(rows, dim=-2) * 0.5 + 0.5).clamp(0, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()
    name = trainer.run / f"sheet{trainer.rank}.jpg"
    cv2.imwrite(str(name), np.ascontiguousarray(sheet[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    mean = {}
    for key in (key for key, value in next(iter(report.values())).items() if not isinstance(value, list)):
        values = [
            found[key] for found in report.values() if found[key] is not None
        ]  # identity may have no error at all
        mean[key] = float(np.mean(values)) if values else None
    record = {"mean": mean, "looks": report}
    (trainer.run / f"validation{trainer.rank}.json").write_text(json.dumps(record, indent=1))
    trainer.say("validation " + json.dumps({key: value and round(value, 4) for key, value in mean.items()}))
    return record
