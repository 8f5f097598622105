"""The main job by the command: in this process, or in one of its own where it is killed, starved or left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from filelock import FileLock
from support import REPOSITORY, SMALL, Cli

from benchmark import registry, results

TINY = ["-u", "wav2vec2_tiny", "-d", "voxceleb1_sv"]


def result_of(folder: Path) -> dict[str, Any]:
    return results.read(folder / "result.json")


def test_the_main_job(cli: Cli, process: Cli, data_root: Path, tmp_path: Path) -> None:
    """Frozen, weighted sum, trained, chosen on dev, evaluated once: every file, and what stands in it."""
    arguments = [*TINY, "--data-root", data_root, "-p", "run", "--max-steps", 3, "-o", *SMALL, "trainer.eval_every=2"]
    done = process(*arguments)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    result = result_of(folder)
    assert result["upstream"]["name"] == "wav2vec2_tiny"
    assert len(result["upstream"]["sha256"]) == 64
    assert set(result["metrics"]) == {"dev", "test", "veri_test"}
    for metrics in result["metrics"].values():
        assert 0 <= metrics["eer"] <= 100
        assert 0 <= metrics["min_dcf_p01"] <= 1
    assert result["selected"]["value"] == result["metrics"]["dev"]["eer"]
    assert sum(result["layer_weights"]) == pytest.approx(1)
    assert sum(result["layer_shares"]) == pytest.approx(1)
    assert len(result["layer_norms"]) == len(result["layer_weights"])
    assert result["cost"]["updates"] == 3
    assert result["cost"]["audio_seconds_seen"] == pytest.approx(3 * 4 * 1.0)  # every crop is a second
    assert result["cost"]["peak_memory_bytes"] > 10**8
    assert result["data"]["test"]["speakers"] == 4
    assert "eer" in done.stdout
    assert "run/result.json" in done.stdout
    assert (folder / "layer_weights.png").read_bytes().startswith(b"\x89PNG")
    trials = (data_root / "VoxCeleb1" / "veri_test2.txt").read_text().split()
    scored = (folder / "scores.txt").read_text().splitlines()
    assert [word for line in scored for word in line.split()[:3]] == trials
    assert list((folder / "tensorboard").iterdir())
    assert "update 2: dev eer" in (folder / "log.txt").read_text()

    # again: refused; resumed: nothing to do; evaluated again: the same numbers; overwritten: the same numbers
    again = cli(*arguments)
    assert again.returncode == 1
    for way in ("-a", "--overwrite", "-p"):
        assert way in again.stderr
    assert result_of(folder) == result
    resumed = cli(*arguments, "-a")
    assert resumed.returncode == 0
    assert "is complete" in resumed.stdout
    evaluated = cli("-m", "evaluate", "-p", "run")
    assert evaluated.returncode == 0, evaluated.stderr
    assert result_of(folder)["metrics"] == result["metrics"]
    repeated = cli("-c", "run/config.yaml", "-p", "repeated")
    assert repeated.returncode == 0, repeated.stderr
    assert result_of(tmp_path / "repeated")["metrics"] == result["metrics"]

    # a run that cannot start takes nothing from the one that it would replace
    for cannot in (["-l", 99], ["-o", "data.crop_seconds=0.01"], ["--data-root", "nowhere"]):
        failed = cli(*arguments, "--overwrite", *cannot)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr
        assert result_of(folder)["metrics"] == result["metrics"]
        assert (folder / "checkpoints" / "best.pt").exists()
    overwritten = cli(*arguments, "--overwrite")
    assert overwritten.returncode == 0, overwritten.stderr
    assert result_of(folder)["metrics"] == result["metrics"]

    other = cli(*arguments, "-a", "--seed", 5)
    assert other.returncode == 1
    assert "seed: 0 -> 5" in other.stderr


@pytest.mark.parametrize(
    "flags", [["-f", "-o", "optim.upstream_lr=1e-5"], ["-l", "2"]], ids=["finetune", "single_layer"]
)
def test_the_other_regimes(cli: Cli, data_root: Path, tmp_path: Path, flags: list[str]) -> None:
    done = cli(*TINY, "--data-root", data_root, "-n", "x", "--max-steps", 2, "-o", *SMALL, *flags)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "results" / "x")
    assert result["regime"] == ("finetune" if "-f" in flags else "single_layer")
    assert result["state"] == (None if "-f" in flags else 2)
    trained = result["cost"]["trainable_parameters"]
    assert (trained > 1_000_000) == ("-f" in flags)


def test_all_layers_one_after_the_other(cli: Cli, data_root: Path, tmp_path: Path, plugin: Path) -> None:
    arguments = ["--plugin", plugin, "-u", "log_spectrum", "-d", "voxceleb1_sv", "--data-root", data_root]
    arguments += ["-l", "all", "-p", "run", "--max-steps", 2, "-o", *SMALL]
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    for layer in (0, 1):
        assert result_of(tmp_path / "run" / f"layer{layer}")["state"] == layer
        assert f"| single_layer, layer {layer} |" in done.stdout
    again = cli(*arguments, "-a")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is complete") == 2
    refused = cli(*arguments, "-m", "evaluate")
    assert refused.returncode == 1
    assert "-l all trains" in refused.stderr
    assert "neither the number of a layer nor 'all'" in cli("-l", "al").stderr


def test_fbank_needs_no_checkpoint(cli: Cli, data_root: Path) -> None:
    done = cli("-u", "fbank", "-d", "sv_voxceleb1", "--data-root", data_root, "--max-steps", 2, "-o", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "results/fbank-voxceleb1_sv-frozen-" in done.stdout


def test_a_plugin_file_runs_the_main_job(cli: Cli, data_root: Path, tmp_path: Path, plugin: Path) -> None:
    assert len(plugin.read_text().splitlines()) <= 25
    arguments = ["--plugin", plugin, "-u", "log_spectrum", "-d", "voxceleb1_sv", "--data-root", data_root]
    done = cli(*arguments, "-p", "run", "--max-steps", 2, "-o", *SMALL)
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path / "run")["upstream"]["name"] == "log_spectrum"
    assert len(result_of(tmp_path / "run")["layer_weights"]) == 2
    resumed = cli("-e", "run")  # the plug-in stands in config.yaml
    assert resumed.returncode == 0, resumed.stderr
    listed = cli("--plugin", plugin, "--list")
    assert "log_spectrum" in listed.stdout


def test_an_installed_package_brings_an_upstream(
    cli: Cli, process: Cli, data_root: Path, tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A separately installed distribution; beside it a broken one, which harms nobody."""
    site = tmp_path / "site"
    for name, target in (("theirs", "their_upstream:LogSpectrum"), ("broken", "their_missing_module:Thing")):
        source = tmp_path / name
        source.mkdir()
        code = plugin.read_text().replace('@upstreams.register("log_spectrum"', '@(lambda *_, **__: lambda c: c)("x"')
        (source / f"{'their_upstream' if name == 'theirs' else 'unused'}.py").write_text(code)
        (source / "pyproject.toml").write_text(
            f'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            f'[project]\nname = "{name}"\nversion = "1"\n'
            f'[project.entry-points."wavbench.upstreams"]\n{name}_spectrum = "{target}"\n'
        )
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site]
    subprocess.run([*install, tmp_path / "theirs", tmp_path / "broken"], check=True, capture_output=True, timeout=300)
    arguments = ["-d", "voxceleb1_sv", "--data-root", data_root, "-p", "run", "--max-steps", 2, "-o", *SMALL]
    done = process("-u", "theirs_spectrum", *arguments, env={"PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path / "run")["upstream"]["name"] == "theirs_spectrum"
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(registry.upstreams, "_entries", None)  # what is installed is looked up once
    listed = cli("--list")
    assert listed.returncode == 0
    assert "theirs_spectrum" in listed.stdout
    assert "broken_spectrum" in listed.stdout
    assert "BROKEN: there is no module 'their_missing_module'" in listed.stdout
    broken = cli("-u", "broken_spectrum", *arguments, "-p", "other")
    assert broken.returncode == 1
    for word in ("broken_spectrum", "package broken", "their_missing_module"):
        assert word in broken.stderr
    assert "Traceback" not in broken.stderr


def interrupted(folder: Path, moment: str, count: int, number: signal.Signals, *arguments: object) -> Any:
    """run_downstream.py in a process that signals itself; see interrupted.py."""
    script = Path(__file__).with_name("interrupted.py")
    command = [sys.executable, str(script), moment, str(count), number.name, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_killed_five_times_it_ends_as_if_left_alone(cli: Cli, data_root: Path, tmp_path: Path) -> None:
    """SIGKILL in updates, evaluations and writes of a fine-tuning run (dropout, three rates, schedule); the rest bit
    for bit."""
    arguments = [*TINY, "-f", "--data-root", data_root, "--max-steps", 30, "-o", *SMALL]
    arguments += ["trainer.save_every=1", "trainer.eval_every=7", "optim.upstream_lr=1e-4", "optim.schedule=linear"]
    arguments += ["trainer.keep=all"]
    alone = cli(*arguments, "-p", "alone")
    assert alone.returncode == 0, alone.stderr

    steps = []
    for moment, count in (("update", 2), ("write", 4), ("prediction", 2), ("written", 2), ("update", 9)):
        killed = interrupted(tmp_path, moment, count, signal.SIGKILL, *arguments, "-p", "killed", "-a")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        steps.append(newest_step(tmp_path / "killed"))
    assert steps == sorted(steps)
    assert 14 < steps[-1] < 30, steps
    resumed = cli(*arguments, "-p", "killed", "-a")
    assert resumed.returncode == 0, resumed.stderr
    one, other = result_of(tmp_path / "alone"), result_of(tmp_path / "killed")
    for key in ("metrics", "layer_weights", "layer_norms", "layer_shares", "selected", "data"):
        assert one[key] == other[key], (key, steps)
    for name in ("scores.txt", "scores_veri_test.txt", "scores_dev.txt"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert one["cost"]["upstream_audio_seconds"] == other["cost"]["upstream_audio_seconds"]
    last = [torch.load(tmp_path / f / "checkpoints" / "last.pt", weights_only=True) for f in ("alone", "killed")]
    assert all(torch.equal(last[0]["pairing"][key], last[1]["pairing"][key]) for key in last[0]["pairing"])
    assert not list((tmp_path / "killed").rglob("*.json.part")), "half-written files are beside the real ones only"


def newest_step(folder: Path) -> int:
    path = folder / "checkpoints" / "last.pt"
    return int(torch.load(path, weights_only=True)["step"]) if path.exists() else 0


def test_ctrl_c_saves_and_says_how_to_resume(data_root: Path, tmp_path: Path) -> None:
    arguments = [*TINY, "--data-root", data_root, "-p", "run", "--max-steps", 10000]
    stopped = interrupted(tmp_path, "update", 3, signal.SIGINT, *arguments, "-o", *SMALL, "trainer.save_every=10000")
    assert stopped.returncode == 130
    assert "resume with: python run_downstream.py -e run" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert newest_step(tmp_path / "run") == 3
    assert not (tmp_path / "run" / "result.json").exists()


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-u", "wav2vec2_tinny", "-d", "voxceleb1_sv"], ["unknown upstream 'wav2vec2_tinny'", "'wav2vec2_tiny'"]),
        (["-u", "fbank", "-d", "voxceleb_sv"], ["unknown downstream 'voxceleb_sv'", "'voxceleb1_sv'"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-o", "optim.lrr=1"], ["optim.lrr", "optim.lr"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "--max-step", "1"], ["--max-step", "--max-steps"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-f", "--top-blocks", "1"], ["finetune", "partial"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "--seed", "-1"], ["seed", "-1"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-o", "optim.betas=[2,0.9]"], ["optim.betas"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-o", "optim.clip=0"], ["optim.clip"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-o", "downstream=banana"], ["banana", "-d"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-p", "a", "-n", "b"], ["-p and -n"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-a", "--overwrite"], ["--overwrite", "-a"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-o", "trainer.precision=fp16", "--device", "cpu"], ["fp16", "CUDA"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-o", "upstream.options.checkpoint=x"], ["-k"]),
        (["-u", "fbank"], ["-u UPSTREAM -d DOWNSTREAM"]),
        (["-e", "nowhere"], ["nowhere", "no config.yaml"]),
        (["-e", "nowhere", "-p", "x"], ["-e nowhere", "-p"]),
        (["-u", "fbank", "-d", "voxceleb1_sv", "-c", "none.yaml"], ["none.yaml", "not found"]),
        (["-u", "x", "-d", "voxceleb1_sv", "--plugin", "none.py"], ["none.py", "not found"]),
        (["-m", "evaluate", "-p", "empty"], ["empty", "holds no run"]),
    ],
)
def test_wrong_usage(cli: Cli, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode in (1, 2)
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_neither_data_nor_checkpoint(cli: Cli, tmp_path: Path) -> None:
    """The command of the README on a bare machine: all that is missing, at once, and where to put it."""
    done = cli("-u", "wav2vec2_large", "-d", "voxceleb1_sv")
    assert done.returncode == 1
    for word in (
        "VoxCeleb1",
        "veri_test2.txt",
        "--data-root",
        "$BENCHMARK_DATA",
        "wav2vec_vox_new.pt",
        "https://dl.fbaipublicfiles.com/fairseq/wav2vec/wav2vec_vox_new.pt",
        str(tmp_path / "cache"),
        "-k",
    ):
        assert word in done.stderr, (word, done.stderr)
    assert "Traceback" not in done.stderr


def test_a_run_is_resumed_with_the_same_weights_and_data_only(cli: Cli, own_root: Path, tmp_path: Path) -> None:
    bundled = REPOSITORY / "upstream" / "wav2vec2" / "wav2vec2_tiny.pt"
    checkpoint = tmp_path / "my.pt"
    shutil.copy(bundled, checkpoint)
    arguments = ["-u", "wav2vec2_local", "-d", "voxceleb1_sv", "--data-root", own_root, "-p", "run"]
    arguments += ["--max-steps", 2, "-o", *SMALL]
    assert cli(*arguments, "-k", checkpoint).returncode == 0
    before = (tmp_path / "run" / "result.json").read_text()

    moved = checkpoint.rename(tmp_path / "moved.pt")
    assert cli("-m", "evaluate", "-p", "run", "-k", moved).returncode == 0  # the same file elsewhere
    state = torch.load(bundled, weights_only=True)
    state["model"]["encoder.layer_norm.bias"] += 1
    torch.save(state, checkpoint)
    changed = cli("-m", "evaluate", "-p", "run")
    assert changed.returncode == 1
    assert "different upstream" in changed.stderr

    shutil.copy(bundled, checkpoint)
    first(own_root, "dev").unlink()
    for again in (["-e", "run"], ["-m", "evaluate", "-p", "run"]):
        changed = cli(*again)
        assert changed.returncode == 1
        assert "different train data" in changed.stderr or "different dev data" in changed.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"] == json.loads(before)["metrics"]


def test_an_unfinished_run_is_not_scored_on_test(cli: Cli, data_root: Path, tmp_path: Path) -> None:
    arguments = ["-u", "fbank", "-d", "voxceleb1_sv", "--data-root", data_root, "-p", "run", "-o", *SMALL]
    assert cli(*arguments, "--max-steps", 2).returncode == 0
    (tmp_path / "run" / "result.json").unlink()
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 2", "max_steps: 9"))
    done = cli("-m", "evaluate", "-p", "run")
    assert done.returncode == 1
    assert "update 2 of 9" in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()


WRONG_UPSTREAMS = {
    "lengths": ("HiddenStates(states, lengths + 50)", "lengths"),
    "states": ("HiddenStates(states[:1], lengths)", "1 states, expected 2"),
    "size": ("HiddenStates([s[..., 1:] for s in states], lengths)", "39]"),
}


@pytest.mark.parametrize("wrong", WRONG_UPSTREAMS)
def test_a_plugin_that_breaks_its_promise_is_named(
    cli: Cli, data_root: Path, tmp_path: Path, plugin: Path, wrong: str
) -> None:
    right = "HiddenStates([states[k] for k in keep or (0, 1)], lengths)"
    instead, word = WRONG_UPSTREAMS[wrong]
    assert right in plugin.read_text()
    (tmp_path / "bad.py").write_text(plugin.read_text().replace(right, instead))
    arguments = ["-d", "voxceleb1_sv", "--data-root", data_root, "-p", "run", "--max-steps", 1, "-o", *SMALL]
    done = cli("--plugin", "bad.py", "-u", "log_spectrum", *arguments)
    assert done.returncode == 1
    for expected in ("upstream 'log_spectrum' returned", word):
        assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_an_upstream_with_random_weights_is_the_same_when_the_run_is_resumed(
    cli: Cli, data_root: Path, tmp_path: Path, plugin: Path
) -> None:
    code = plugin.read_text().replace(
        "        states = [bands", "        bands = bands @ self.mix\n        states = [bands"
    )
    code += "\n    def __init__(self):\n        super().__init__()\n"
    code += "        self.register_buffer('mix', torch.randn(40, 40))\n"
    (tmp_path / "random_upstream.py").write_text(code)
    arguments = ["-d", "voxceleb1_sv", "--data-root", data_root, "-p", "run", "--max-steps", 2, "-o", *SMALL]
    done = cli("--plugin", "random_upstream.py", "-u", "log_spectrum", *arguments)
    assert done.returncode == 0, done.stderr
    metrics = result_of(tmp_path / "run")["metrics"]
    assert cli("-m", "evaluate", "-p", "run").returncode == 0
    assert result_of(tmp_path / "run")["metrics"] == metrics


@pytest.fixture
def own_root(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the corpus that a test may damage."""
    shutil.copytree(data_root, tmp_path / "data")
    return tmp_path / "data"


def first(root: Path, split: str) -> Path:
    return sorted((root / "VoxCeleb1" / split / "wav").rglob("*.wav"))[0]


@pytest.mark.parametrize(
    ("split", "damage", "words"),
    [
        ("dev", lambda p: p.write_bytes(p.read_bytes()[:20]), ["ends early", "promises"]),
        ("dev", lambda p: p.write_bytes(b"not audio"), ["cannot be read as audio"]),
        ("dev", lambda p: soundfile.write(p, np.zeros(0), 16000), ["0 samples"]),
        ("test", lambda p: soundfile.write(p, np.zeros(399), 16000), ["too short"]),
        ("test", lambda p: soundfile.write(p, np.full(9000, np.nan), 16000, subtype="FLOAT"), ["NaN"]),
        ("test", lambda p: p.unlink(), ["trial"]),
    ],
    ids=["truncated", "corrupt", "empty", "short", "nan", "absent"],
)
def test_damaged_audio_is_named(cli: Cli, own_root: Path, tmp_path: Path, split: str, damage: Any, words: Any) -> None:
    path = first(own_root, split)
    damage(path)
    done = cli(
        "-u", "fbank", "-d", "voxceleb1_sv", "--data-root", own_root, "-p", "run", "--max-steps", 1, "-o", *SMALL
    )
    assert done.returncode == 1
    name = str(path.relative_to(own_root / "VoxCeleb1" / split / "wav"))
    for word in (name, *words):
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("rate", [8000, 48000])
def test_other_rates_and_channels_run(cli: Cli, own_root: Path, tmp_path: Path, rate: int) -> None:
    generator = np.random.default_rng(0)
    for split in ("dev", "test"):
        path = first(own_root, split)
        soundfile.write(path, 0.1 * generator.standard_normal((2 * rate, 2)).clip(-1, 1), rate)
    done = cli(
        "-u", "fbank", "-d", "voxceleb1_sv", "--data-root", own_root, "-p", "run", "--max-steps", 2, "-o", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path / "run")["data"]["test"]["seconds"] > 0


def test_a_folder_that_cannot_be_written(cli: Cli, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = ["-u", "fbank", "-d", "voxceleb1_sv", "--data-root", data_root, "--max-steps", 1, "-o", *SMALL]
    done = cli(*arguments, "-p", "file/run")
    assert done.returncode == 1
    assert "cannot write into file/run" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_loses_nothing(cli: Cli, process: Cli, data_root: Path, tmp_path: Path) -> None:
    """A limit on file size stands for a full disk: no checkpoint fits, the run stops, nothing is half-written."""
    arguments = [*TINY, "--data-root", data_root, "-p", "run", "--max-steps", 4, "-o", *SMALL, "trainer.save_every=1"]

    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    full = process(*arguments, preexec_fn=limit)
    assert full.returncode == 1
    assert "cannot write" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "run").rglob("*.part"))
    done = cli(*arguments, "-a")
    assert done.returncode == 0, done.stderr


def test_two_processes_do_not_share_a_folder(cli: Cli, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        done = cli(
            "-u", "fbank", "-d", "voxceleb1_sv", "--data-root", data_root, "-p", "run", "--max-steps", 1, "-o", *SMALL
        )
    assert done.returncode == 1
    assert "another process" in done.stderr


def test_the_data_root_of_the_environment(
    cli: Cli, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHMARK_DATA", str(data_root))
    assert cli("-u", "fbank", "-d", "voxceleb1_sv", "-p", "run", "--max-steps", 1, "-o", *SMALL).returncode == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["root"] == str(data_root)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["provenance"]["command"]


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """``wavbench list | head``: quiet, whatever was not read."""
    command = [sys.executable, "-m", "benchmark", "list"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 0
    assert errors == b""


def test_a_layer_that_does_not_exist_leaves_no_folder(cli: Cli, data_root: Path) -> None:
    done = cli(*TINY, "--data-root", data_root, "-p", "run", "-l", 99, "-o", *SMALL)
    assert done.returncode == 1
    assert "layer 99 does not exist: this upstream has 7 layers" in done.stderr
    assert not Path("run").exists()


def test_ctrl_c_in_all_layers_says_how_to_resume(data_root: Path, tmp_path: Path) -> None:
    arguments = [*TINY, "--data-root", data_root, "-p", "run", "-l", "all", "--max-steps", 10]
    stopped = interrupted(tmp_path, "update", 3, signal.SIGINT, *arguments, "-o", *SMALL)
    assert stopped.returncode == 130
    assert "resume with the same command and -a" in stopped.stderr
    assert "-e run" not in stopped.stderr
