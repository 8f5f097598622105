"""``wavbench export``: the upstream of a trained run, as a checkpoint that other libraries load."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.commands import Parser

EXAMPLES = """\
examples:
  wavbench export results/my_asr -o tuned.pt                         # a fairseq checkpoint; also -u wav2vec2_local
  wavbench export results/my_asr -o tuned --format huggingface       # a folder for transformers' from_pretrained
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench export EXPDIR -o PATH``."""
    parser = Parser(
        "wavbench export",
        "Write the upstream of a trained run (regime finetune, partial or lora; the checkpoint that was best on dev) "
        "in a format that other libraries load, and wavbench as an upstream again.",
        EXAMPLES,
    )
    parser.add_argument("expdir", metavar="EXPDIR", help="the folder of a trained run")
    parser.add_argument("-o", "--output", metavar="PATH", required=True, help="the file or folder to write")
    parser.add_argument("--format", metavar="NAME", help="fairseq (default) or huggingface; others by other upstreams")
    options = parser.parse_args(argv)
    from benchmark.engine.export import export  # imports torch

    how = export(options.expdir, options.output, options.format)
    print(f"{options.output} is written; load it by\n  {how}")
    return 0
