"""Facts about the machine: the GPU, its driver, and its rates for matrix products and copies."""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from bdiff.common.device import synchronize
from bdiff.store.provenance import device_name, versions
from card.kept import keep


def seconds(work: Callable[[], Any], device: torch.device, rounds: int = 5, warm: int = 2) -> float:
    """Return the median time of `work` over some rounds, after a warm-up, including the device's work."""
    for _ in range(warm):
        work()
    found = []
    for _ in range(rounds):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return the floating-point operations per second of a product of (size,size) matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


def machine(asked: argparse.Namespace) -> None:
    """Save the GPU's facts and rates."""
    device, size = torch.device(asked.device), 512 if asked.tiny else 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    metrics = {
        "matmul_bf16_flops": matmul_rate(device, torch.bfloat16, size),
        "matmul_fp32_flops": matmul_rate(device, torch.float32, size // 2),
    }
    megabytes = 16 if asked.tiny else 512
    here = torch.empty(megabytes * 2**20, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = here.to(device)
    rates = {
        "copy_to_card": lambda: there.copy_(here, non_blocking=True),
        "copy_from_card": lambda: here.copy_(there, non_blocking=True),
        "copy_on_card": lambda: there.clone(),
    }
    for name, work in rates.items():
        metrics[f"{name}_bytes_per_second"] = here.numel() / seconds(work, device)
    config: dict[str, Any] = {"size": size, "threads": torch.get_num_threads(), "versions": versions()}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        config |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        config |= {"capability": [about.major, about.minor], "processors": about.multi_processor_count}
        metrics["memory_bytes"] = about.total_memory
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        config["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    keep(asked.state, "machine", config, metrics, device=device_name(device))


def keep_tests(asked: argparse.Namespace, codes: dict[str, int]) -> None:
    """Save the outcome of the tests of each file."""
    metrics = {"files": len(codes), "failed": sum(code != 0 for code in codes.values())}
    keep(asked.state, "tests", {"exit codes": codes}, metrics, device=device_name(torch.device(asked.device)))
