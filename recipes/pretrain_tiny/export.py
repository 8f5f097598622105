"""Write what was pre-trained as a small fairseq checkpoint: half precision, plain data, no optimizer.

    python -m recipes.pretrain_tiny.export results/pretrain_tiny/stage2/last.pt upstream/wav2vec2/wav2vec2_tiny.pt

Takes fairseq's own checkpoints (contrastive training), those of ``pretrain.py``, and ``random`` for an untrained
network. fairseq's model has two projections that only its contrastive objective uses, ``project_q`` and
``final_proj``; where that was not the objective they are written as zeros, so that fairseq loads the file strictly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmark.errors import BenchmarkError
from recipes.pretrain_tiny.pretrain import HERE, read_config
from upstream.readers.torchfile import load_state
from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.export import save_checkpoint
from upstream.wav2vec2.model import Wav2Vec2Model


def read(source: Path, config: Path, seed: int) -> Wav2Vec2Model:
    """The network of a checkpoint, or an untrained one of the architecture in ``config``."""
    if str(source) == "random":
        torch.manual_seed(seed)
        return Wav2Vec2Model(read_config(config)[0])
    state = load_state(source)
    if "pretrainer" not in state:
        return load_model(source)
    model = Wav2Vec2Model(Wav2Vec2Config(**state["model_config"]))
    tensors = {name.removeprefix("model."): x for name, x in state["pretrainer"].items() if name.startswith("model.")}
    model.load_state_dict(tensors)
    return model


def main() -> int:
    """``python -m recipes.pretrain_tiny.export CHECKPOINT OUT``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of fairseq or pretrain.py, or 'random'")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=HERE / "pretrain.yaml", help="architecture of 'random'")
    parser.add_argument("--seed", type=int, default=0, help="of 'random'")
    options = parser.parse_args()
    try:
        model = read(options.checkpoint, options.config, options.seed).half()
        model.pretraining = {name: tensor.half() for name, tensor in model.pretraining.items()}
        save_checkpoint(model, options.out)
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
