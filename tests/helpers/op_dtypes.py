"""The number types that every op is tested in."""

from __future__ import annotations

import pytest
import torch

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.values())
