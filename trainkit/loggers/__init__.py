"""Loggers: where the metrics of a run go, beside what `fit` writes into its folder.

Input: `fit(loggers=[…])`, which gives every logger the rows of a run in their order, each once,
also over kills and resumes. Output: files, a terminal, a tracking service. A logger of one's own
has three methods, `start`, `log` and `close`. Read `logger` first.
"""

from trainkit.loggers.jsonl import JSONL
from trainkit.loggers.logger import Logger, Run
from trainkit.loggers.mlflow import MLflow
from trainkit.loggers.table import CSV
from trainkit.loggers.tensorboard import TensorBoard
from trainkit.loggers.terminal import Terminal
from trainkit.loggers.wandb import WandB

__all__ = ["CSV", "JSONL", "Logger", "MLflow", "Run", "TensorBoard", "Terminal", "WandB"]
