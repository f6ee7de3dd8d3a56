"""W&B sweep files, run on W&B or, with Optuna, on machines that need no server."""
