"""Write a checkpoint of ``pretrain.py`` as fairseq would: ``cfg`` of plain data, ``model`` with fairseq's names.

    python -m recipes.pretrain_tiny.export results/pretrain_tiny/last.pt upstream/wav2vec2/wav2vec2_tiny.pt

fairseq's model has two projections that only its contrastive objective uses: ``project_q`` and ``final_proj``. They
were not trained here, and are written with random values so that fairseq loads the file strictly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from recipes.pretrain_tiny.pretrain import HERE, read_config, save
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model

FINAL_DIM = 64


def export(config: Wav2Vec2Config, tensors: dict[str, Tensor], path: Path) -> None:
    """Write the network's tensors and configuration, in half precision."""
    torch.manual_seed(0)
    conv_dim = config.conv_layers[-1][0]
    extra = {"project_q": nn.Linear(conv_dim, FINAL_DIM), "final_proj": nn.Linear(config.encoder_embed_dim, FINAL_DIM)}
    model_config, task_config = config.to_fairseq()
    tensors = dict(tensors)
    for name, module in extra.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    save(
        {
            "args": None,
            "cfg": {"_name": None, "model": {**model_config, "final_dim": FINAL_DIM, "quantize_targets": False},
                    "task": task_config, "common": {"_name": None}},
            "model": {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()},
            "extra_state": {"train_iterator": {"epoch": 1}}, "last_optimizer_state": None,
            "optimizer_history": [
                {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
            ],
        },
        path,
    )  # fmt: skip


def main() -> int:
    """``python -m recipes.pretrain_tiny.export CHECKPOINT OUT``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="last.pt of pretrain.py, or 'random' for an untrained network")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=HERE / "pretrain.yaml", help="architecture of 'random'")
    parser.add_argument("--seed", type=int, default=0, help="of 'random'")
    options = parser.parse_args()
    try:
        if str(options.checkpoint) == "random":
            config, _ = read_config(options.config, [])
            torch.manual_seed(options.seed)
            tensors = Wav2Vec2Model(config).state_dict()
        else:
            state = torch.load(options.checkpoint, weights_only=True, map_location="cpu")
            config = Wav2Vec2Config(**state["model_config"])
            tensors = {
                name.removeprefix("model."): tensor
                for name, tensor in state["pretrainer"].items()
                if name.startswith("model.")
            }
        export(config, tensors, options.out)
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
