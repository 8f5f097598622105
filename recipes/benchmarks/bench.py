"""How fast is it, beside fairseq, transformers, torchaudio and s3prl? One table, on a CPU.

    python recipes/benchmarks/bench.py [-o FOLDER] [--parts limit,pass,step,run,accuracy,…] [--quick] [--large]

All load one checkpoint with random weights of the base architecture, written once in fairseq's and Hugging Face's
formats, and get the same utterances. They take turns, so that a machine that is busy with other work disturbs all
alike: medians of the rounds, and their ratios to ours, which hold better than the times. What is not installed is said
to be missing. About 20 minutes; ``--quick`` is the same with a tiny model in a minute or two, a test of the script.

Parts: ``limit``, products of matrices; ``pass``, all states of 8 utterances of 2 to 17 s, in a batch and one by one;
``step``, a fine-tuning step of 4 of them with the extractor frozen; ``run``, SUPERB's speaker identification for 20
epochs with a frozen upstream; ``accuracy``, what it reaches on more speakers, on wav2vec2_tiny; ``study``, every
layer and the weighted sum, with 3 seeds and 3 rates, of which s3prl's time is so many of its runs; ``memory``, the
largest resident memory of a process that computes a batch; ``start``, commands from nothing.

The folder gets ``bench.csv``, ``bench.md`` and ``bench.png``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from common import BASE, LARGE, RATE, TINY, made, padded, ragged, write_speech
from peers import LOADERS, Forward, Way, convert, s3prl, s3prl_support, write_checkpoint
from rows import Row, write
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import wavbench
from benchmark.engine.precision import Precision
from upstream.products import Linear
from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.model import Wav2Vec2Model

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, BATCH = 20, 8
RATES = (1e-3, 1e-2, 1e-1)


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Times:
    """Seconds of each round."""

    wall: list[float] = dataclasses.field(default_factory=list)
    processor: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the wall."""
        return float(np.median(self.wall))


class Bench:
    """What is measured with, and what was found."""

    def __init__(
        self, folder: Path, *, quick: bool, architecture: Mapping[str, Any], rounds: int | None = None
    ) -> None:
        self.folder, self.quick, self.architecture = folder, quick, architecture
        self.rows: list[Row] = []
        self.rounds = rounds or (1 if quick else 3)
        self.wavs = ragged(BATCH, 0.5, 1.5) if quick else ragged(BATCH, 2.0, 17.0)
        self.wavs.sort(key=len, reverse=True)

    def seconds_of_audio(self, wavs: Sequence[Tensor]) -> float:
        """Their durations together."""
        return sum(map(len, wavs)) / float(RATE)

    def load(self, part: str, what: str) -> dict[str, Way]:
        """Everything that can be loaded; rows for the rest."""
        found = {}
        for name in LOADERS:
            try:
                found[name] = LOADERS[name](self.folder)
            except Exception as failure:  # whatever a library that is missing or broken raises
                self.missing(part, what, name, failure)
        return found

    def missing(self, part: str, what: str, way: str, failure: Exception) -> None:
        """Say why there is no number."""
        reason = f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}"[:100]
        self.note(Row(part, what, way, None, "", note=f"not measured: {reason}"))

    def in_turns(self, work: Mapping[str, Callable[[], object]], rounds: int | None = None) -> dict[str, Times]:
        """Seconds of each, one after the other in each round."""
        times = {name: Times() for name in work}
        for _ in range(rounds or self.rounds):
            for name, call in work.items():
                start, busy = time.perf_counter(), time.process_time()
                call()
                times[name].wall.append(time.perf_counter() - start)
                times[name].processor.append(time.process_time() - busy)
        return times

    def note(self, row: Row) -> None:
        """Keep and print a row."""
        self.rows.append(row)
        number = row.note if row.value is None else f"{row.value:.4g} {row.unit}"
        print(f"{row.part:7} {row.what:58} {row.way:24} {number}", flush=True)

    def compare(self, part: str, what: str, times: Mapping[str, Times], notes: Mapping[str, str] | None = None) -> None:
        """Rows of seconds."""
        for name, taken in times.items():
            note = (notes or {}).get(name, "")
            self.note(Row(part, what, name, taken.median, "s", taken.wall, float(np.median(taken.processor)), note))


def measure_limit(bench: Bench) -> None:
    """What the machine does at most: the product of a feed-forward layer with 10 s of audio."""
    rows, wide, narrow = (50, 256, 128) if bench.quick else (500, 3072, 768)
    layer, x = Linear(narrow, wide), torch.randn(rows, narrow)
    half, y = layer.weight.detach().bfloat16(), x.bfloat16()
    repeat = range(20)
    with torch.inference_mode():
        times = bench.in_turns({
            "PyTorch (MKL)": lambda: [F.linear(x, layer.weight, layer.bias) for _ in repeat],
            "oneDNN, as ours": lambda: [layer(x) for _ in repeat],
            "bf16": lambda: [F.linear(y, half) for _ in repeat],
        }, 5)  # fmt: skip
    work = 2 * rows * wide * narrow * len(repeat) / 1e9
    for name, taken in times.items():
        rates = [work / value for value in taken.wall]
        bench.note(Row("limit", "product of matrices", name, float(np.median(rates)), "GFLOP/s", rates))


def operations(model: Wav2Vec2Model, wavs: Sequence[Tensor]) -> float:
    """Floating-point operations of a pass over each utterance alone, without padding; counted, not computed."""
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations}
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    plain = torch.backends.mkldnn.flags(enabled=False)  # the counter does not know oneDNN's call
    with plain, FakeTensorMode(allow_non_fake_inputs=True), counter, torch.no_grad():
        for wav in wavs:
            model._forward_batch(torch.empty(1, len(wav)), [len(wav)], list(range(model.num_states)))
    return float(counter.get_total_flops())


def attention_operations(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of tensors of these shapes (batch, head, frame, dim)."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def root_mean_square_error(found: Any, expected: Any) -> float:
    """Of the worst state, relative to its own root mean square."""
    return max(
        float((one.float() - other).square().mean().sqrt() / other.square().mean().sqrt())
        for one, other in zip(found.states, expected.states, strict=True)
    )


def measure_pass(bench: Bench) -> None:
    """All hidden states, in batches of 8 (longest first) and of 1."""
    ways = bench.load("pass", "all states")
    model: Any = ways["ours"].module.eval()
    halved = Precision("bf16", torch.device("cpu")).frozen(model)
    batches = {size: [padded(bench.wavs[i : i + size]) for i in range(0, BATCH, size)] for size in (BATCH, 1)}

    def go(forward: Forward, size: int, half: bool = False) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            for wavs, lens in batches[size]:
                forward(wavs, lens)

    work: dict[str, Callable[[], object]] = {}
    for size in batches:
        for name, way in ways.items():
            way.module.eval()
            work[f"{name}, {size}"] = partial(go, way.states, size)
    work["bf16"] = partial(go, halved, 1, True)
    batches[0] = [padded(bench.wavs[-1:])]
    for forward in (way.states for way in ways.values()):  # what is only done once
        go(forward, 0)
    go(halved, 0, True)
    times = bench.in_turns(work)
    for size in (BATCH, 1):
        label = f"all states, batches of {size}"
        bench.compare("pass", label, {name: times[f"{name}, {size}"] for name in ways})
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = halved(*padded(bench.wavs[-1:]))
    with torch.inference_mode():
        error = root_mean_square_error(rough, model(*padded(bench.wavs[-1:])))
    note = f"states off by {100 * error:.2g} % (root mean square, worst state)"
    bench.compare("pass", "all states, batches of 1", {"ours, bf16": times["bf16"]}, {"ours, bf16": note})
    rate = operations(model, bench.wavs) / times[f"ours, {BATCH}"].median / 1e9
    bench.note(Row("pass", "rate", "ours", rate, "GFLOP/s"))
    limits = [row for row in bench.rows if row.part == "limit" and row.way != "bf16" and row.value]
    for limit in limits:
        bench.note(Row("pass", f"share of the product's rate, {limit.way}", "ours", 100 * rate / limit.value, "%"))


def measure_step(bench: Bench) -> None:
    """Fine-tuning: forward, backward and AdamW, extractor frozen, mean square of the last state as the loss."""
    wavs = bench.wavs[::2]
    label = f"fine-tuning step of {len(wavs)} utterances, {bench.seconds_of_audio(wavs):.0f} s"
    ways = bench.load("step", label)

    def step(way: Way, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor]) -> None:
        way.last(*padded(batch)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    work = {}
    for name, way in list(ways.items()):
        way.module.train()
        optimizer = torch.optim.AdamW([p for p in way.module.parameters() if p.requires_grad], lr=1e-5)
        try:
            step(way, optimizer, bench.wavs[-1:])
        except Exception as failure:
            bench.missing("step", label, name, failure)
            continue
        work[name] = partial(step, way, optimizer, wavs)
    bench.compare("step", label, bench.in_turns(work), {name: way.note for name, way in ways.items()})


def settings(bench: Bench, data: Mapping[str, Path], updates: int) -> dict[str, Any]:
    """SUPERB's speaker identification on whole utterances."""
    return {
        "checkpoint": str(bench.folder / "fairseq.pt"), "device": "cpu",
        "data": {**{name: str(path) for name, path in data.items()}, "crop_seconds": None},
        "features": {"keep": True}, "optim": {"lr": 1e-3},
        "trainer": {"max_steps": updates, "batch_size": BATCH, "accumulate": 1, "eval_every": updates,
                    "eval_batch_size": 1, "trackers": []},
    }  # fmt: skip


@contextmanager
def another_cache(bench: Bench) -> Iterator[None]:
    """An empty cache folder within."""
    former = os.environ["BENCHMARK_CACHE"]
    os.environ["BENCHMARK_CACHE"] = tempfile.mkdtemp(dir=bench.folder)
    try:
        yield
    finally:
        os.environ["BENCHMARK_CACHE"] = former


Spoken = list[tuple[Tensor, int, str]]
"""(waveform, speaker, id) of utterances."""


def speech(
    bench: Bench, *, speakers: int = 4, each: int = 10, held: int = 1, low: float = 1.5, high: float = 3.0
) -> tuple[dict[str, Path], dict[str, Spoken]]:
    """Manifests, and what they hold: of each speaker so many utterances of ``low`` to ``high`` seconds, ``held`` in dev
    and in test (in VoxCeleb1, as SUPERB splits it, each has a twentieth)."""
    folder = bench.folder / f"audio of {speakers}"
    folder.mkdir(exist_ok=True)
    if bench.quick:
        each, held, low, high = 6, 4, 0.5, 1.0
    paths = write_speech(folder, speakers, each, low, high, known=True, held=held)
    read: dict[str, Spoken] = {split: [] for split in paths}
    for split, path in paths.items():
        for line in map(json.loads, path.read_text().splitlines()):
            wav = soundfile.read(folder / line["path"], dtype="float32")[0]
            read[split].append((torch.from_numpy(wav), int(line["speaker"][1:]), line["id"]))
    return paths, read


@torch.no_grad()
def accuracy(runner: Any, records: Any, spoken: Spoken) -> float:
    """Of s3prl's trained head, in percent."""
    for wav, speaker, name in spoken:
        features = runner.featurizer.model([wav], runner.upstream.model([wav]))
        runner.downstream.model("test", features, [speaker], [name], records=records)
    return 100 * float(np.mean(records["acc"]))


def updates_of(train: Spoken) -> int:
    """Of twenty epochs."""
    return EPOCHS * -(-len(train) // BATCH)


def run_s3prl(bench: Bench, upstream: nn.Module, spoken: Mapping[str, Spoken], speakers: int) -> tuple[float, float]:
    """Seconds that s3prl's own Runner trains for, from audio in memory, and the accuracy on test in percent."""
    support, train = s3prl_support(), spoken["train"]
    runner = support.make_runner(
        upstream, "voxceleb1", support.sid_config(256), count=speakers, steps=updates_of(train), accumulate=1, clip=1.0,
        optimizer={"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 1e-3}, folder=bench.folder / "expdir",
    )  # fmt: skip
    batches = [train[i : i + BATCH] for i in range(0, len(train), BATCH)]
    given = [([wav.numpy() for wav, _, _ in batch], [who for _, who, _ in batch], [name for _, _, name in batch])
             for batch in batches]  # fmt: skip
    start = time.perf_counter()
    support.train(runner, given)
    return time.perf_counter() - start, accuracy(runner, support.records(), spoken["test"])


def measure_run(bench: Bench) -> None:
    """Twenty epochs of a frozen run: ours from audio to test scores, s3prl's Runner in training alone."""
    data, spoken = speech(bench)
    updates = updates_of(spoken["train"])
    label = f"frozen SID, {EPOCHS} epochs of {sum(len(wav) for wav, _, _ in spoken['train']) / RATE:.0f} s"
    with another_cache(bench):  # imports, and what is only done once
        wavbench.run("wav2vec2_local", "sid", folder=bench.folder / "one update", **settings(bench, data, 1))
    for name in ("feature store empty", "feature store filled"):
        start = time.perf_counter()
        wavbench.run("wav2vec2_local", "sid", folder=bench.folder / name, **settings(bench, data, updates))
        seconds = time.perf_counter() - start
        bench.note(Row("run", label, f"ours, {name}", seconds, "s", [seconds], note="with dev and test"))
    try:
        seconds, _ = run_s3prl(bench, s3prl(bench.folder).module, spoken, 4)
        note = "its Runner, training alone, audio in memory"
        bench.note(Row("run", label, "s3prl", seconds, "s", [seconds], note=note))
    except Exception as failure:
        bench.missing("run", label, "s3prl", failure)


def measure_accuracy(bench: Bench) -> None:
    """What the same run reaches on more speakers, on the bundled network: ours and s3prl's Runner, three seeds each."""
    speakers = 4 if bench.quick else 24
    data, spoken = speech(bench, speakers=speakers, each=12, held=3, low=1.0, high=2.0)
    values = settings(bench, data, updates_of(spoken["train"]))
    del values["checkpoint"]
    seeds = range(1 if bench.quick else 3)
    label = f"frozen SID, {EPOCHS} epochs, {speakers} speakers, wav2vec2_tiny: test accuracy"
    reached = []
    for seed in seeds:
        folder = bench.folder / f"accuracy {seed}"
        result = wavbench.run("wav2vec2_tiny", "sid", folder=folder, seed=seed, **values)
        reached.append(result["metrics"]["test"]["accuracy"])
    bench.note(Row("accuracy", label, "ours", float(np.mean(reached)), "%", reached, note="mean of the seeds"))
    try:
        tiny = bench.folder / "tiny"
        tiny.mkdir()
        convert(load_model(wavbench.load_upstream("wav2vec2_tiny").info["checkpoint"]), tiny)
        reached = []
        for seed in seeds:
            torch.manual_seed(seed)
            reached.append(run_s3prl(bench, s3prl(tiny).module, spoken, speakers)[1])
        bench.note(Row("accuracy", label, "s3prl", float(np.mean(reached)), "%", reached, note="its Runner"))
    except Exception as failure:
        bench.missing("accuracy", label, "s3prl", failure)


def measure_study(bench: Bench) -> None:
    """Every state and the weighted sum, 3 seeds, 3 rates; s3prl's time is its run's, times the runs."""
    data, spoken = speech(bench)
    values = settings(bench, data, updates_of(spoken["train"]))
    checkpoint = values.pop("checkpoint")
    regimes = {
        "sum": {"regime": "frozen", "search": {"optim.lr": list(RATES)}},
        "layers": {"regime": "single_layer", "layers": "all", "search": {"optim.lr": list(RATES)}},
    }
    recipe = {
        "name": "layers", "question": "Which state?", "seeds": [0, 1, 2], "config": values, "regimes": regimes,
        "upstreams": {"model": {"name": "wav2vec2_local", "checkpoint": checkpoint}}, "tasks": {"sid": {}},
    }  # fmt: skip
    path = bench.folder / "layers.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    with another_cache(bench):
        start = time.perf_counter()
        wavbench.study(path, bench.folder / "study")
        seconds = time.perf_counter() - start
    runs = (made(dict(bench.architecture)).num_states + 1) * 3 * len(RATES)
    label = f"layer-wise study: {runs} runs of {EPOCHS} epochs"
    bench.note(Row("study", label, "ours", seconds, "s", [seconds], note="feature store empty at first"))
    for row in [row for row in bench.rows if row.part == "run" and row.way == "s3prl"]:
        if row.value is None:
            bench.note(dataclasses.replace(row, part="study", what=label))
        else:
            note = f"extrapolated: {runs} times its run of {row.value:.4g} s"
            bench.note(Row("study", label, "s3prl", runs * row.value, "s", note=note))


def child(bench: Bench, *arguments: str) -> str:
    """What a process of this script prints last."""
    command = [sys.executable, str(Path(__file__)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return done.stdout.strip().rpartition("\n")[2]


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere too a process may begin with the peak of the one that started it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def report_memory(name: str, folder: Path, quick: bool) -> None:
    """In a process of its own: load, compute a batch, print :func:`peak` before and after."""
    way = LOADERS[name](folder)
    way.module.eval()
    before = peak()
    with torch.inference_mode():
        way.states(*padded(Bench(folder, quick=quick, architecture={}).wavs))
    print(json.dumps([before, peak()]))


def measure_memory(bench: Bench) -> None:
    """A process for each."""
    for name in LOADERS:
        try:
            options = ["--quick"] if bench.quick else []
            before, after = json.loads(child(bench, "--memory-of", name, "--folder", str(bench.folder), *options))
            bench.note(Row("memory", "largest resident memory, a batch of 8", name, after, "GB", [after], None,
                           f"{before:.2f} GB once loaded"))  # fmt: skip
        except Exception as failure:
            bench.missing("memory", "largest resident memory, a batch of 8", name, failure)


def measure_start(bench: Bench) -> None:
    """Commands from nothing, and imports of the peers' model classes."""
    script = [sys.executable, str(ROOT / "run_downstream.py")]
    first = [*script, "-u", "wav2vec2_tiny", "-d", "voxceleb1_sid", "--quick", "-p", str(bench.folder / "first")]
    commands = {
        ("--help", "ours"): [*script, "--help"],
        ("--list", "ours"): [*script, "--list"],
        ("import of the model", "ours"): [sys.executable, "-c", "import upstream.wav2vec2.model"],
        ("import of the model", "fairseq"): [sys.executable, "-c", "import fairseq.models.wav2vec"],
        ("import of the model", "transformers"): [sys.executable, "-c", "from transformers import Wav2Vec2Model"],
        ("import of the model", "torchaudio"): [sys.executable, "-c", "import torchaudio.models"],
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in commands}
    for _ in range(bench.rounds):
        for key, command in commands.items():
            start = time.perf_counter()
            if subprocess.run(command, capture_output=True, cwd=ROOT).returncode == 0:
                times[key].append(time.perf_counter() - start)
    for (what, way), values in times.items():
        if values:
            bench.note(Row("start", what, way, float(np.median(values)), "s", values))
        else:
            bench.missing("start", what, way, ImportError("does not start"))
    start = time.perf_counter()
    done = subprocess.run(first, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        bench.missing("start", "first number: --quick", "ours", RuntimeError(done.stderr.strip().rpartition("\n")[2]))
    else:
        seconds = time.perf_counter() - start
        bench.note(Row("start", "first number: --quick", "ours", seconds, "s", [seconds]))


PARTS: dict[str, Callable[[Bench], None]] = {
    "limit": measure_limit, "pass": measure_pass, "step": measure_step, "run": measure_run,
    "accuracy": measure_accuracy, "study": measure_study, "memory": measure_memory, "start": measure_start,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/bench"), help="default: %(default)s")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, help="of each measurement; default: 3, with --quick 1")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a tiny model")
    size.add_argument("--large", action="store_true", help="the Large architecture")
    parser.add_argument("--memory-of", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_of:
        report_memory(options.memory_of, options.folder, options.quick)
        return 0
    logging.disable(logging.INFO)  # fairseq and s3prl turn everything on
    architecture = TINY if options.quick else LARGE if options.large else BASE
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["BENCHMARK_CACHE"] = str(Path(temporary) / "cache")
        bench = Bench(Path(temporary), quick=options.quick, architecture=architecture, rounds=options.rounds)
        write_checkpoint(bench.folder, architecture)
        for part in options.parts.split(","):
            start = time.perf_counter()
            PARTS[part](bench)
            print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
            write(bench.rows, options.output)  # what there is so far
    print(f"{options.output}/bench.csv, bench.md, bench.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
