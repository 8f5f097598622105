"""Is everything right on a GPU, and how fast is it? One script, about 8 minutes, nothing to install.

    python recipes/benchmarks/device.py [-o device.json] [--parts states,families,…] [--small]

Needs PyTorch, torchaudio, soundfile and omegaconf; what it compares with (transformers, torchaudio) is skipped where it
is missing. Weights are random and audio is noise and tones: times and errors do not depend on them, accuracies mean
nothing and are not printed. It prints one table and writes JSON. ``--small`` is the same with a tiny model in a minute
or two, on a CPU too: a test of the script.

Parts: ``states``, hidden states against the CPU's, alone against padded, bf16 against float32; ``families``, the same
of a small model of each family; ``regimes``, each regime trained on both devices, and resumed; ``pass``, frozen forward
passes; ``step``, fine-tuning steps; ``run``, a frozen speaker verification run from audio on disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import BASE, LARGE, RATE, TINY, commit, made, padded, ragged, write_speech
from families import families
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import wavbench
from benchmark.engine.precision import Precision, use_tf32
from benchmark.engine.prepare import Preparer, configure
from benchmark.engine.stopping import StopRequest
from benchmark.engine.trainer import Trainer
from benchmark.interfaces import Upstream
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.export import save_checkpoint
from upstream.wav2vec2.model import Wav2Vec2Model

STATES_TOLERANCE = 1e-4
"""Of a state's largest value: float32 on the device against float32 on the CPU."""
BF16_TOLERANCE = 0.03
"""The same in bf16: products of another shape are summed in another order, and rounded differently."""


@dataclasses.dataclass
class Bench:
    """What is measured with, and what was found."""

    device: torch.device
    small: bool
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)

    def note(self, part: str, what: str, value: float | str, unit: str = "", *, ok: bool | None = None) -> None:
        """Keep and print one row; ``ok=False`` is a failure."""
        self.rows.append({"part": part, "what": what, "value": value, "unit": unit, "ok": ok})
        number = value if isinstance(value, str) else f"{value:.4g}"
        print(f"{part:8} {what:76} {number:>10} {unit}{'' if ok is None else '  ok' if ok else '  FAILS'}", flush=True)
        if ok is False:
            self.failures.append(f"{part}: {what}: {number} {unit}")

    def architectures(self) -> dict[str, dict[str, Any]]:
        """Name -> configuration of the models that are measured."""
        return {"tiny": TINY, "tiny, pre-norm": {**LARGE, **TINY}} if self.small else {"base": BASE, "large": LARGE}

    def autocast(self, precision: str) -> torch.autocast:
        """Mixed precision where it is ``bf16``."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeat: int = 3) -> float:
        """Median time of ``work`` after one warm-up."""
        work()
        times = []
        for _ in range(repeat):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    @contextmanager
    def peak_memory(self, part: str, what: str) -> Iterator[None]:
        """Note the largest memory that is allocated on the device within."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device.type == "cuda":
            self.note(part, what, torch.cuda.max_memory_allocated() / 1e9, "GB")


# --- states -----------------------------------------------------------------------------------------------------------


def error(found: Sequence[Tensor], expected: Sequence[Tensor], lengths: Sequence[int]) -> float:
    """Largest difference of any state's valid frames, as a share of the state's largest value."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        scale = max(float(other[i, :n].abs().max()) for i, n in enumerate(lengths))
        for i, n in enumerate(lengths):
            worst = max(worst, float((one[i, :n].float() - other[i, :n].float()).abs().max()) / scale)
    return worst


@torch.no_grad()
def _check(bench: Bench, part: str, name: str, model: nn.Module, wavs: Tensor, lens: Tensor) -> None:
    """The states of one model, which is moved to the device."""
    reference = model(wavs, lens)
    frames = reference.lengths.tolist()
    model = model.to(bench.device)
    given = (wavs.to(bench.device), lens)
    use_tf32(False)
    found = [state.cpu() for state in model(*given).states]
    worst = error(found, reference.states, frames)
    bench.note(part, f"{name}: against the CPU, float32", worst, "of max", ok=worst <= STATES_TOLERANCE)
    worst = 0.0
    for i, n in enumerate(lens.tolist()):
        alone = model(given[0][i : i + 1, :n], lens[i : i + 1]).states
        rows = [state[i : i + 1, : frames[i]] for state in found]
        worst = max(worst, error([state.cpu() for state in alone], rows, frames[i : i + 1]))
    bench.note(part, f"{name}: alone and in a batch, float32", worst, "of max", ok=worst <= STATES_TOLERANCE)
    if bench.device.type == "cuda":
        use_tf32(True)
        worst = error([state.cpu() for state in model(*given).states], reference.states, frames)
        bench.note(part, f"{name}: TF32 against the CPU", worst, "of max")
        use_tf32(False)
    with torch.autocast(bench.device.type, torch.bfloat16):
        mixed = [state.cpu().float() for state in model(*given).states]
    bench.note(part, f"{name}: bf16 against float32", error(mixed, found, frames), "of max")
    worst = 0.0
    for i, n in enumerate(lens.tolist()):
        with torch.autocast(bench.device.type, torch.bfloat16):
            alone = [state.cpu() for state in model(given[0][i : i + 1, :n], lens[i : i + 1]).states]
        worst = max(worst, error(alone, [state[i : i + 1, : frames[i]] for state in mixed], frames[i : i + 1]))
    bench.note(part, f"{name}: alone and in a batch, bf16", worst, "of max", ok=worst <= BF16_TOLERANCE)
    rms = [float((m - f).square().mean().sqrt() / f.square().mean().sqrt()) for m, f in zip(mixed, found, strict=True)]
    bench.note(part, f"{name}: bf16 against float32, root mean square, worst state", max(rms), "relative")


def check_states(bench: Bench) -> None:
    """Hidden states on the device: right, the same in any batch, and how far off in bf16 and with TF32."""
    wavs, lens = padded(ragged(4, 0.5 if bench.small else 1.0, 2.0 if bench.small else 6.0))
    for name, config in bench.architectures().items():
        _check(bench, "states", name, made(config), wavs, lens)


def check_families(bench: Bench) -> None:
    """The same of a small model of each family."""
    if importlib.util.find_spec("transformers") is None:
        bench.note("families", "all", "skipped", "(no transformers)")
        return
    wavs, lens = padded(ragged(3, 0.5, 2.0))
    with tempfile.TemporaryDirectory() as root:
        for name, model in families(Path(root)):
            _check(bench, "families", name, model, wavs, lens)


# --- regimes ----------------------------------------------------------------------------------------------------------


MORE: dict[str, dict[str, Any]] = {
    "sid": {},
    "asr": {"task": {"head": {"name": "linear"}, "specaugment": {"enabled": False}, "shared_speakers": True}},
}
"""Downstreams that each regime is trained on: mean pooling with a softmax, and CTC."""


def settings(
    downstream: str,
    checkpoint: Path,
    data: dict[str, Path],
    regime: str,
    steps: int,
    device: str,
    precision: str = "no",
) -> Any:
    """The configuration of a short run, all dropout off."""
    still = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "encoder_layerdrop": 0.0}
    values: dict[str, Any] = {
        "upstream": {"name": "wav2vec2_local", "checkpoint": str(checkpoint)},
        "regime": regime,
        "device": device,
        "data": {name: str(path) for name, path in data.items()} | {"crop_seconds": None, "min_seconds": 0.0},
        "features": {"keep": False},
        "optim": {"lr": 1e-3, "upstream_lr": 1e-4, "eps": 1e-4, "schedule": "constant", "warmup_steps": 0},
        "tune": {"options": {**still, "apply_mask": True}, "freeze_updates": 0},
        "trainer": {"max_steps": steps, "batch_size": 4, "accumulate": 2, "eval_every": steps, "eval_batch_size": 4,
                    "save_every": 10**6, "trackers": [], "precision": precision},
    }  # fmt: skip
    if regime == "single_layer":
        values["featurizer"] = {"layer": 1}
    if regime == "partial":
        values["tune"]["top_blocks"] = 1
    return configure(downstream, [("device.py", values), ("device.py", MORE[downstream])])


def train(run: Any, folder: Path, stop_at: int | None = None) -> Trainer:
    """Train in a folder; with ``stop_at``, stop at that update and resume in a new trainer."""
    steps = run.trainer.max_steps
    for last in [stop_at, steps] if stop_at else [steps]:
        run.trainer.max_steps = last
        prepared = Preparer().prepare(run)
        trainer = Trainer(run, prepared.task, prepared.upstream, folder)
        trainer.resume()
        trainer.train(StopRequest())
    return trainer


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """What was trained, in float64 on the CPU."""
    return {name: value.detach().double().cpu() for name, value in trainer.model.trained_state().items()}


def change_apart(one: dict[str, Tensor], other: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """How far two trainings are apart, as a share of how far they went."""
    apart = sum(float((one[name] - other[name]).square().sum()) for name in one)
    went = sum(float((other[name] - start[name]).square().sum()) for name in other)
    return float(np.sqrt(apart / went))


def check_regimes(bench: Bench) -> None:
    """Each regime, a few updates: the device against the CPU, resumed against uninterrupted, and bf16."""
    names = ["frozen", "finetune"] if bench.small else ["frozen", "single_layer", "partial", "finetune"]
    if importlib.util.find_spec("peft") is None:
        bench.note("regimes", "lora", "skipped", "(no peft)")
    else:
        names.append("lora")
    steps = 2 if bench.small else 10
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        data = write_speech(root, speakers=4, each=4, low=1.0, high=2.0, known=True)
        save_checkpoint(made(TINY), root / "tiny.pt")
        for downstream in MORE:
            for regime in names:
                configured = partial(settings, downstream, root / "tiny.pt", data, regime, steps)

                label, folder = f"{downstream}, {regime}", root / f"{downstream}-{regime}"
                run = configured("cpu")
                prepared = Preparer().prepare(run)
                start = weights(Trainer(run, prepared.task, prepared.upstream, folder / "start"))
                cpu = weights(train(run, folder / "cpu"))
                whole = weights(train(configured(bench.device.type), folder / "whole"))
                apart = change_apart(whole, cpu, start)
                bench.note(
                    "regimes", f"{label}: device against CPU after {steps} updates", apart, "of change", ok=apart < 1e-2
                )
                again = weights(train(configured(bench.device.type), folder / "again"))
                resumed = weights(train(configured(bench.device.type), folder / "resumed", stop_at=steps // 2))
                repeat, apart = change_apart(again, whole, start), change_apart(resumed, whole, start)
                bench.note("regimes", f"{label}: the same run twice", repeat, "of change")
                bench.note(
                    "regimes",
                    f"{label}: resumed against uninterrupted",
                    apart,
                    "of change",
                    ok=apart <= max(2 * repeat, 1e-4),
                )
                mixed = weights(train(configured(bench.device.type, "bf16"), folder / "bf16"))
                apart = change_apart(mixed, cpu, start)
                bench.note("regimes", f"{label}: bf16 against float32", apart, "of change", ok=apart < 0.5)


# --- speed ------------------------------------------------------------------------------------------------------------


def matmul_rate(bench: Bench, dtype: torch.dtype, *, tf32: bool = False) -> float:
    """Floating-point operations a second of a large matrix product."""
    use_tf32(tf32)
    size = 512 if bench.small else 8192
    a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
    rate = 2 * size**3 * 10 / bench.seconds(lambda: [a @ b for _ in range(10)])
    use_tf32(False)
    return rate


@torch.no_grad()
def operations(model: nn.Module, wavs: Sequence[Tensor], device: torch.device) -> float:
    """Floating-point operations of a forward pass of each utterance alone: what a batch costs without its padding."""
    with FlopCounterMode(display=False) as counter:
        for wav in wavs:
            model(wav[None].to(device), torch.tensor([len(wav)]))
    return float(counter.get_total_flops())


Forward = Callable[[Tensor, Tensor], Any]


def peers(config: dict[str, Any], device: torch.device, *, train: bool = False) -> dict[str, tuple[nn.Module, Forward]]:
    """Name -> (module, all hidden states of a padded batch) of other libraries, with the same architecture."""
    about = Wav2Vec2Config(**config)
    found: dict[str, tuple[nn.Module, Forward]] = {}
    try:
        import transformers

        shape = list(zip(*about.conv_layers, strict=True))
        hugging = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(
            hidden_size=about.encoder_embed_dim, num_hidden_layers=about.encoder_layers,
            num_attention_heads=about.encoder_attention_heads, intermediate_size=about.encoder_ffn_embed_dim,
            conv_dim=shape[0], conv_kernel=shape[1], conv_stride=shape[2], conv_bias=about.conv_bias,
            feat_extract_norm="layer" if about.extractor_mode == "layer_norm" else "group",
            do_stable_layer_norm=about.layer_norm_first, layerdrop=0.0, mask_time_prob=0.065,
        )).to(device).train(train)  # fmt: skip
        hugging.freeze_feature_encoder()

        def states(wavs: Tensor, lens: Tensor) -> Any:
            mask = (torch.arange(wavs.shape[1], device=device) < lens.to(device)[:, None]).long()
            return hugging(wavs, attention_mask=mask, output_hidden_states=True).hidden_states

        found["transformers"] = (hugging, states)
    except ImportError:
        pass
    try:
        import torchaudio

        audio = torchaudio.models.wav2vec2_model(
            about.extractor_mode.replace("default", "group_norm"), [tuple(layer) for layer in about.conv_layers],
            about.conv_bias, about.encoder_embed_dim, 0.1, about.conv_pos, about.conv_pos_groups, about.encoder_layers,
            about.encoder_attention_heads, 0.1, about.encoder_ffn_embed_dim, 0.0, 0.1, about.layer_norm_first, 0.0,
            None,
        ).to(device).train(train)  # fmt: skip
        audio.feature_extractor.requires_grad_(False)
        found["torchaudio"] = (audio, lambda wavs, lens: audio.extract_features(wavs, lens.to(device))[0])
    except ImportError:
        pass
    return found


def measure_pass(bench: Bench) -> None:
    """Frozen forward passes with all states, ragged utterances of 2 to 17 s in the order of evaluation."""
    limits = {"float32": matmul_rate(bench, torch.float32), "bf16": matmul_rate(bench, torch.bfloat16)}
    limits["TF32"] = matmul_rate(bench, torch.float32, tf32=True)
    for name, rate in limits.items():
        bench.note("pass", f"matrix product, {name}", rate / 1e12, "TFLOP/s")
    count, sizes = (4, (1, 2)) if bench.small else (64, (1, 16))
    wavs = sorted(ragged(count, 0.5 if bench.small else 2.0, 1.5 if bench.small else 17.0), key=len, reverse=True)
    audio_seconds = sum(map(len, wavs)) / RATE
    for name, config in bench.architectures().items():
        model = made(config).to(bench.device)
        sample = wavs[:: 1 if bench.small else 8]
        needed = operations(model, sample, bench.device) * audio_seconds * RATE / sum(map(len, sample))
        halved = Precision("bf16", bench.device).frozen(model)
        ways: dict[str, Forward] = {"ours": model}
        ways |= {peer: forward for peer, (_, forward) in peers(config, bench.device).items()}
        for precision in ("float32", "TF32", "bf16"):
            if bench.device.type != "cuda" and precision == "TF32":
                continue
            use_tf32(precision == "TF32")
            ways["ours"] = halved if precision == "bf16" else model
            for way, forward in ways.items():
                for size in sizes:
                    batches = [padded(wavs[first : first + size]) for first in range(0, count, size)]

                    def go(forward: Forward = forward, batches: Any = batches) -> None:
                        with torch.inference_mode(), bench.autocast(precision):  # noqa: B023
                            for wav, lens in batches:
                                forward(wav.to(bench.device, non_blocking=True), lens)

                    seconds = bench.seconds(go, 1 if precision == "float32" else 3)
                    label = f"{name}, {precision}, batches of {size}: {way}"
                    bench.note("pass", label, audio_seconds / seconds, "s of audio/s")
                    if way == "ours":
                        share = needed / seconds / limits[precision]
                        bench.note("pass", f"{label}, share of the matrix product's rate", 100 * share, "%")
            use_tf32(False)
        if bench.device.type == "cuda":
            _measure_compiled(bench, name, halved, wavs)
        del model, halved, ways


def _measure_compiled(bench: Bench, name: str, model: Upstream, wavs: Sequence[Tensor]) -> None:
    """Compiled transformer blocks, bf16, batches of 8."""
    batches = [padded(wavs[first : first + 8]) for first in range(0, len(wavs), 8)]

    def go() -> None:
        with torch.inference_mode(), torch.autocast(bench.device.type, torch.bfloat16):
            for wav, lens in batches:
                model(wav.to(bench.device, non_blocking=True), lens)

    plain = bench.seconds(go)
    try:
        start = time.perf_counter()
        for block in model.blocks:
            block.compile(dynamic=True)
        go()
        bench.wait()
        bench.note("pass", f"{name}, bf16, compiling the blocks", time.perf_counter() - start, "s")
        bench.note("pass", f"{name}, bf16, batches of 8: compiled blocks", plain / bench.seconds(go), "x")
    except Exception as failure:  # whatever the compiler raises: it is a measurement, not a part of the library
        bench.note("pass", f"{name}, bf16: compiled blocks", f"{type(failure).__name__}: {str(failure)[:60]}")


def last_state(model: Wav2Vec2Model, wavs: Tensor, lens: Tensor) -> list[Tensor]:
    """The last hidden state."""
    return model(wavs, lens, keep=[model.num_states - 1]).states


def measure_step(bench: Bench) -> None:
    """Fine-tuning: forward, backward and AdamW with the extractor frozen, masking on, random batches of 8."""
    count, size = (4, 2) if bench.small else (32, 8)
    wavs = ragged(count, 0.5 if bench.small else 2.0, 1.5 if bench.small else 17.0, seed=1)
    batches = [padded(wavs[first : first + size]) for first in range(0, count, size)]
    audio_seconds = sum(map(len, wavs)) / RATE
    for name, config in bench.architectures().items():
        for precision in ("float32", "bf16"):
            for way in ("ours", "transformers", "torchaudio"):
                if way == "ours":
                    model = made(config, apply_mask=True, dropout=0.1, attention_dropout=0.1).to(bench.device).train()
                    model.extractor.requires_grad_(False)
                    module: nn.Module = model
                    forward: Forward = partial(last_state, model)
                else:
                    others = peers(config, bench.device, train=True)
                    if way not in others:
                        continue
                    module, forward = others[way]
                    del others
                parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
                optimizer = torch.optim.AdamW(parameters, lr=1e-5)

                def go(forward: Forward = forward, optimizer: Any = optimizer) -> None:
                    for wav, lens in batches:
                        with bench.autocast(precision):  # noqa: B023
                            states = forward(wav.to(bench.device), lens)
                        states[-1].float().square().mean().backward()
                        optimizer.step()
                        optimizer.zero_grad()

                with bench.peak_memory("step", f"{name}, {precision}: {way}, memory"):
                    seconds = bench.seconds(go, 2)
                bench.note("step", f"{name}, {precision}: {way}", audio_seconds / seconds, "s of audio/s")
                del module, forward, parameters, optimizer, go


def measure_run(bench: Bench) -> None:
    """A frozen speaker verification run from audio on disk: the upstream in every update, and features stored."""
    speakers, each, high = (6, 4, 1.5) if bench.small else (60, 12, 12.0)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        data = write_speech(root, speakers, each, 1.0 if bench.small else 4.0, high, known=False)
        save_checkpoint(made(TINY if bench.small else BASE), root / "model.pt")
        steps = 4 if bench.small else 60
        for label, keep in (("on the fly", False), ("feature store", True)):
            start = time.perf_counter()
            result = wavbench.run(
                "wav2vec2_local", "sv", folder=root / label, train=str(data["train"]),
                test=str(data["test"]), checkpoint=str(root / "model.pt"), device=bench.device.type,
                features={"keep": keep}, task={"head": {"name": "mean", "size": 256, "pooled": None}},
                data={"crop_seconds": None, "workers": 0 if bench.small else 8},
                trainer={"max_steps": steps, "batch_size": 16, "accumulate": 1, "eval_every": steps,
                         "eval_batch_size": 16, "trackers": [], "precision": "no" if bench.small else "bf16"},
            )  # fmt: skip
            seconds = time.perf_counter() - start
            seen = result["cost"]["upstream_audio_seconds"]
            bench.note("run", f"frozen SV, {label}: {steps} updates of 16", seconds, "s")
            bench.note("run", f"frozen SV, {label}: audio through the upstream", seen / seconds, "s of audio/s")


PARTS: dict[str, Callable[[Bench], None]] = {
    "states": check_states,
    "families": check_families,
    "regimes": check_regimes,
    "pass": measure_pass,
    "step": measure_step,
    "run": measure_run,
}


def provenance(device: torch.device) -> dict[str, Any]:
    """What was measured, on what."""
    return {
        "card": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if something is not right."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON here")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: %(default)s")
    parser.add_argument(
        "--small", action="store_true", help="a tiny model, in a minute or two; on the CPU where there is no GPU"
    )
    options = parser.parse_args(arguments)
    if not options.small and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; --small also runs on a CPU")
    bench = Bench(torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.small)
    about = provenance(bench.device)
    print(about["card"], f"torch {about['torch']}", about["commit"] or "")
    for part in options.parts.split(","):
        start = time.perf_counter()
        try:
            PARTS[part](bench)
        except Exception as failure:  # one part that breaks leaves the others to be measured
            logging.getLogger("wavbench").exception("%s broke", part)
            bench.failures.append(f"{part} broke: {type(failure).__name__}: {failure}")
        bench.note(part, "this part", time.perf_counter() - start, "s")
        if options.output:  # what there is so far
            options.output.write_text(
                json.dumps({**about, "rows": bench.rows, "failures": bench.failures}, indent=1) + "\n"
            )
    print("\n".join(["", *bench.failures, "" if bench.failures else "no failures"]))
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
