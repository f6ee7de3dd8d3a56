"""Where numbers go: metrics.csv in the run folder, always, and Weights & Biases."""

from segdcn.loggers.csv_log import CSVLog
from segdcn.loggers.wandb_environment import WandbMode, has_wandb_key, new_wandb_id
from segdcn.loggers.weights_and_biases import WandbLog, is_first_process, wandb_log, wandb_logger

__all__ = [
    "CSVLog",
    "WandbLog",
    "WandbMode",
    "has_wandb_key",
    "is_first_process",
    "new_wandb_id",
    "wandb_log",
    "wandb_logger",
]
