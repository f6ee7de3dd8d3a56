"""What happens beside training: checkpoints, progress, pictures, the closing table."""
