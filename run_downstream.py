"""The command users type: ``python run_downstream.py -u wav2vec2_large -d voxceleb1_sv``."""

import sys

from benchmark.cli import run_downstream

if __name__ == "__main__":
    sys.exit(run_downstream())
