"""``wavbench export``: the upstream of a trained run, as a checkpoint of its own that other libraries load."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Upstream
from benchmark.engine.predict import Predictor
from benchmark.registry import suggest

EXAMPLES = """\
examples:
  wavbench export results/my_asr -o tuned.pt                         # a fairseq checkpoint; also -u wav2vec2_local
  wavbench export results/my_asr -o tuned --format huggingface       # a folder for transformers' from_pretrained
"""


def trained_upstream(folder: str | Path) -> Upstream:
    """The upstream of a run as its best checkpoint on dev has it, on the CPU, in evaluation mode, adapters merged.

    Raises:
        BenchmarkError: there is no trained run, or one that leaves its upstream as it was.
    """
    predictor = Predictor(folder, device="cpu")
    upstream = predictor.pairing.upstream
    if not predictor.pairing.upstream_trains:
        raise BenchmarkError(
            f"{folder} is a run of regime '{predictor.run.regime}', which leaves upstream "
            f"'{predictor.run.upstream.name}' as it was: there is nothing new to export. Its checkpoint is "
            f"{upstream.info.get('checkpoint')}"
        )
    if predictor.run.regime == "lora":
        merge_adapters(upstream)
    return upstream


def merge_adapters(upstream: Upstream) -> None:
    """Add what PEFT's adapters have learnt to the weights that they adapt, and take the adapters away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(upstream.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, attribute = name.rpartition(".")
            setattr(upstream.get_submodule(parent), attribute, module.get_base_layer())


def export(folder: str | Path, path: str | Path, format: str | None = None) -> str:
    """Write the upstream of a trained run.

    Args:
        folder: the experiment folder.
        path: a file or folder, as the format has it, that does not exist yet.
        format: a key of :attr:`Upstream.exports`; ``None``: the first.

    Returns:
        How the result is loaded.

    Raises:
        BenchmarkError: no such format, an upstream or architecture that cannot be exported, or ``path`` exists.
    """
    path = Path(path).expanduser()
    if path.exists():
        raise BenchmarkError(f"{path} already exists and is not overwritten; choose another -o, or remove it first")
    upstream = trained_upstream(folder)
    formats = upstream.exports
    if not formats:
        raise BenchmarkError(f"upstream '{upstream.info.get('name')}' says no format that it could be exported in")
    if format is not None and format not in formats:
        raise BenchmarkError(f"unknown format '{format}' (--format). " + suggest(format, list(formats), noun="formats"))
    return formats[format or next(iter(formats))](path)


def main(argv: Sequence[str]) -> int:
    """``wavbench export EXPDIR -o PATH``."""
    parser = argparse.ArgumentParser(
        prog="wavbench export",
        description="Write the upstream of a trained run (regime finetune, partial or lora; the checkpoint that was "
        "best on dev) in a format that other libraries load, and wavbench as an upstream again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("expdir", metavar="EXPDIR", help="the folder of a trained run")
    parser.add_argument("-o", "--output", metavar="PATH", required=True, help="the file or folder to write")
    parser.add_argument("--format", metavar="NAME", help="fairseq (default) or huggingface; others by other upstreams")
    options = parser.parse_args(argv)
    how = export(options.expdir, options.output, options.format)
    print(f"{options.output} is written; load it by\n  {how}")
    return 0
