"""``wavbench check-upstream``: whether an upstream keeps its promises, in words, with what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.commands import Parser, add_upstream_arguments, load_chosen_upstream

if TYPE_CHECKING:
    from benchmark.engine.conformance import Finding

EXAMPLES = """\
examples:
  wavbench check-upstream wav2vec2_tiny
  wavbench check-upstream wav2vec2_local -k models/mine.pt
  wavbench check-upstream small_gru --plugin my_network.py
  wavbench check-upstream s3prl --option source=fbank_no_cmvn
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench check-upstream NAME``. Returns 0 if all promises are kept that could be checked, else 1."""
    parser = Parser(
        "wavbench check-upstream",
        "Check what an upstream promises, on noise and silence; exit status 1 if something is wrong.",
        EXAMPLES,
    )
    parser.add_argument("name", metavar="NAME", help="an upstream; wavbench list --upstreams shows the names")
    add_upstream_arguments(parser)
    options = parser.parse_args(argv)
    upstream, _ = load_chosen_upstream(options.name, options)

    from benchmark.engine.conformance import examine
    from benchmark.tables import plural

    findings = examine(upstream)
    every = f"{plural(upstream.frame_shift, 'sample')} ({1000 * upstream.frame_shift / upstream.sample_rate:.4g} ms)"
    states = f"{plural(upstream.num_states, 'state')} of {plural(upstream.hidden_size, 'feature')}"
    print(f"{upstream.info['name']}: {states}, a frame every {every} at {upstream.sample_rate:,} Hz\n")
    for finding in findings:
        print(_text(finding))
    wrong = sum(finding.outcome == "wrong" for finding in findings)
    kept = sum(finding.outcome == "ok" for finding in findings)
    print(f"\n{kept} of {len(findings)} promises are kept, {wrong} broken, {len(findings) - kept - wrong} not checked")
    return 1 if wrong else 0


def _text(finding: Finding) -> str:
    """What was found, in lines of a terminal's width."""
    check, indent = finding.check, " " * 21
    outcome = "WRONG" if finding.outcome == "wrong" else finding.outcome
    lines = [f"{outcome:<9}{check.name:<12}{check.promise}"]
    lines += textwrap.wrap("; ".join(finding.details), 118, initial_indent=indent, subsequent_indent=indent)
    if finding.outcome == "wrong":
        lines += textwrap.wrap(f"To do: {check.advice}", 118, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)
