"""Several processes train one model: who is who, and the mean of their gradients."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from mirage_cli.training.config import TrainConfig


def join_processes(device: str) -> tuple[int, int]:
    """(rank, world size) as torchrun sets them; the processes are joined on the first call."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        # torch.optim imports this on first use, and default arguments in it hold the group that is there then:
        # it outlives destroy_process_group, and its threads may abort the process while Python ends.
        import torch.distributed.nn.functional

        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return rank, world


def open_device(config: TrainConfig) -> torch.device:
    """The device that this process trains on; on CUDA torch's defaults for it are set (process-wide)."""
    kind = device_kind(config)
    if kind != "cuda":
        return torch.device(kind)
    device = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    return device


def device_kind(config: TrainConfig) -> str:
    """cpu or cuda."""
    return config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def average_gradients(net: torch.nn.Module, world: int) -> None:
    """Mean of all processes' gradients, as one flat all-reduce."""
    if world == 1:
        return
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))
