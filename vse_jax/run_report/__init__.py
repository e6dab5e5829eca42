"""The HTML report of runs: the program's `--mode=report`."""
