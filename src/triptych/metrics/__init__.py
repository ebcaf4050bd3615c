"""Every number the project prints: ranking metrics, bootstrap intervals and verdicts. NumPy only."""
