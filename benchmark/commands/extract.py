"""``wavbench extract``: hidden states of audio files, or their means, to a folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands import Parser, add_upstream_arguments, load_chosen_upstream, log_to_terminal, positive

EXAMPLES = """\
examples:
  wavbench extract -u wav2vec2_base *.wav -o features                      # all states, a safetensors file a clip
  wavbench extract -u wav2vec2_base corpus.jsonl -o features --states 9,last --dtype float16
  wavbench extract -u wav2vec2_base corpus.jsonl -o means --means --format npy
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench extract -u NAME FILES… -o DIR``."""
    parser = Parser(
        "wavbench extract",
        "Write the hidden states of audio files, or their means over time. A folder that is there is continued.",
        EXAMPLES,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files or manifests")
    parser.add_argument("-u", "--upstream", required=True, metavar="NAME", help="wavbench list shows the names")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder")
    add_upstream_arguments(parser)
    parser.add_argument("--states", default="all", metavar="K,…", help="all (default), or as 0,6,last")
    parser.add_argument("--means", action="store_true", help="the mean over time of each state, not its frames")
    parser.add_argument("--format", choices=("safetensors", "npy"), default="safetensors", help="default: safetensors")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the files")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no", help="of the upstream")
    parser.add_argument("--label", metavar="NAME", action="append", default=[], help="a further column of manifests")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="utterances at a time; default 1")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read audio; default 0")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--overwrite", action="store_true", help="also where the folder holds something else")
    options = parser.parse_args(argv)
    log_to_terminal()

    from benchmark.engine.extract import Wanted, extract, parse_states
    from benchmark.engine.predict import read_inputs
    from benchmark.tables import plural

    utterances = read_inputs(options.files, options.label)
    upstream, values = load_chosen_upstream(options.upstream, options)
    states = parse_states(options.states, upstream.num_states)
    done = extract(
        upstream,
        utterances,
        Path(options.output),
        Wanted(states, options.means, options.format, options.dtype, options.precision),
        options=values,
        device=options.device,
        batch_size=options.batch_size,
        workers=max(options.workers, 0),
        overwrite=options.overwrite,
        quiet=not sys.stderr.isatty(),
    )
    there = f"; {len(utterances) - done:,} were there" if done < len(utterances) else ""
    print(f"{plural(done, 'utterance')} extracted to {options.output}{there}")
    return 0
