"""PyTorch's fused AdamW over leaves alone.

python -m benchmarks.peers.torch_update small
"""

from __future__ import annotations

import os
import sys
import time

import torch

from benchmarks.peers.serving import serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = {"small": [(16, 16), (16,), (16, 8)] * 100, "large": [(1024, 1024)] * 10}


class Update:
    """A fused step; with `master`, gradients and a copy of the parameters are bf16."""

    def __init__(self, size: str, master: bool):
        torch.manual_seed(0)
        draw = lambda shape: torch.randn(shape, device=DEVICE)
        self.params = [torch.nn.Parameter(draw(shape)) for shape in SHAPES[size]]
        self.half = [p.detach().bfloat16() for p in self.params]
        self.grads = [0.01 * h for h in self.half]
        self.master = master
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-3, weight_decay=1e-4, fused=True)
        for p in self.params:
            p.grad = 0.01 * p.detach()

    def step(self) -> None:
        if self.master:
            torch._foreach_copy_([p.grad for p in self.params], self.grads)
        self.optimizer.step()
        if self.master:
            torch._foreach_copy_(self.half, [p.detach() for p in self.params])


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sides = {kind: Update(sys.argv[1], kind == "bf16") for kind in ("float32", "bf16")}

    def block(kind: str, steps: int) -> float:
        """Seconds of so many steps."""
        begun = time.perf_counter()
        for _ in range(steps):
            sides[kind].step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    serve({"block": block})
