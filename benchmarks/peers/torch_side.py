"""PyTorch, eager and compiled, on the models of the tasks.

python -m benchmarks.peers.torch_side eager TASK
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers.serving import Task, serve, trainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def mlp(task: Task) -> nn.Module:
    """Dense layers with ReLU between them."""
    parts: list[nn.Module] = [nn.Flatten()]
    for kernel, bias in task.layers():
        parts += [dense(kernel, bias), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def cnn(task: Task) -> nn.Module:
    """Two convolutions, each pooled, and two dense layers."""
    parts: list[nn.Module] = []
    *convolutions, first, last = task.layers()
    for kernel, bias in convolutions:
        part = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        put(part.weight, kernel.transpose(3, 2, 0, 1))
        put(part.bias, bias)
        parts += [part, nn.ReLU(), nn.MaxPool2d(2)]
    # Flattened here as (channels, height, width), there as (height, width, channels).
    kernel, bias = first
    kernel = kernel.reshape(7, 7, -1, kernel.shape[1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
    return nn.Sequential(*parts, nn.Flatten(), dense(kernel, bias), nn.ReLU(), dense(*last))


def put(parameter: torch.Tensor, value: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(np.ascontiguousarray(value)))


def dense(kernel: np.ndarray, bias: np.ndarray | None = None) -> nn.Linear:
    part = nn.Linear(kernel.shape[0], kernel.shape[1], bias=bias is not None)
    put(part.weight, kernel.T)
    if bias is not None:
        put(part.bias, bias)
    return part


def rms_norm(scale: np.ndarray) -> nn.Module:
    part = nn.RMSNorm(len(scale), eps=1e-6)
    put(part.weight, scale)
    return part


class Block(nn.Module):
    """Attention with rotary positions and a gated MLP."""

    def __init__(self, task: Task, name: str, angles: np.ndarray):
        super().__init__()
        own = lambda part: task.params[f"{name}/{part}"]
        self.heads = task.heads
        self.norm_attention = rms_norm(own("norm_attention/scale"))
        self.norm_mlp = rms_norm(own("norm_mlp/scale"))
        wide = lambda part: own(part).reshape(own(part).shape[0], -1)
        self.query, self.key, self.value = (
            dense(wide(f"attention/{part}/kernel")) for part in ("query", "key", "value")
        )
        out = own("attention/out/kernel")
        self.out = dense(out.reshape(-1, out.shape[-1]))
        self.gate, self.up, self.down = (
            dense(own(f"{part}/kernel")) for part in ("gate", "up", "down")
        )
        self.register_buffer("cos", torch.tensor(np.cos(angles)))
        self.register_buffer("sin", torch.tensor(np.sin(angles)))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        even, odd = x.chunk(2, -1)
        cos, sin = self.cos, self.sin
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        h = self.norm_attention(x)
        q, k, v = (
            part(h).view(batch, length, self.heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        h = self.norm_mlp(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Transformer(nn.Module):
    """A character transformer."""

    def __init__(self, task: Task):
        super().__init__()
        embed = task.params["embed/embedding"]
        self.embed = nn.Embedding(*embed.shape)
        put(self.embed.weight, embed)
        angles = task.angles(embed.shape[1] // task.heads)
        depth = len({n.split("/")[0] for n in task.params if n.startswith("block_")})
        self.blocks = nn.ModuleList(Block(task, f"block_{i}", angles) for i in range(depth))
        self.norm = rms_norm(task.params["norm/scale"])
        self.logits = dense(task.params["logits/kernel"])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x))


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": Transformer}


class TorchSide:
    """The usual loop: zero, forward, backward, step, with Adam as it is by default."""

    def __init__(self, task: Task, compiled: bool):
        put_there = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(DEVICE)
        images = task.name == "cnn"
        x, test_x = (
            part.transpose(0, 3, 1, 2) if images else part for part in (task.x, task.test_x)
        )
        self.x, self.y = put_there(x), put_there(task.y.astype(np.int64))
        self.test_x, self.test_y = put_there(test_x), put_there(task.test_y.astype(np.int64))
        self.batch_size = task.order.shape[1]
        model = MODELS[task.name](task).to(DEVICE)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=task.learning_rate)
        self.model = torch.compile(model) if compiled else model

    def train(self, order: np.ndarray) -> float:
        for rows in torch.from_numpy(order.astype(np.int64)).to(DEVICE):
            self.optimizer.zero_grad()
            logits, labels = self.model(self.x[rows]), self.y[rows]
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
            with torch.no_grad():
                (logits.argmax(-1) == labels).float().mean()  # the others report it too
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())  # waits for the device

    @torch.no_grad()
    def accuracy(self) -> float:
        right, n = 0.0, len(self.test_x) // self.batch_size * self.batch_size
        for i in range(0, n, self.batch_size):
            x, y = self.test_x[i : i + self.batch_size], self.test_y[i : i + self.batch_size]
            right += float((self.model(x).argmax(-1) == y).float().mean()) * len(x)
        return right / n


if __name__ == "__main__":
    which, path = sys.argv[1:]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    serve(trainer(lambda task: TorchSide(task, which == "compiled"), Task(path)))
