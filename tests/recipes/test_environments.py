"""Environments other than the one it was written on: locales, terminals, folders that cannot be written, odd names."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import multiprocessing
import os
import pty
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import test_study
import yaml
from support import REPOSITORY, SMALL

from benchmark.files import cache_dir

RUN = ["run", "-u", "wav2vec2_tiny", "-d", "voxceleb1_sv", "--max-steps", "1", "-o", *SMALL]
COMMAND = [sys.executable, "-c", "import sys; from wavbench.__main__ import main; sys.exit(main())"]

Wavbench = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def wavbench(tmp_path: Path) -> Wavbench:
    """``wavbench ARGUMENTS`` in a process of its own; what it prints, as bytes."""

    def run(*arguments: object, env: dict[str, str | None] | None = None, **options: Any) -> Any:
        changed = {"BENCHMARK_CACHE": str(tmp_path / "cache"), "BENCHMARK_DATA": None} | (env or {})
        environment = {name: value for name, value in (os.environ | changed).items() if value is not None}
        options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 300} | options
        return subprocess.run([*COMMAND, *map(str, arguments)], env=environment, **options)

    return run


# -- locales -----------------------------------------------------------------------------------------------------------

C_LOCALE: dict[str, str | None] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": None}


def text_files() -> Iterator[tuple[Path, ast.Call]]:
    """Calls that open a file as text."""
    folders = ("benchmark", "upstream", "downstream", "wavbench")
    for path in (path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            method = function.attr if isinstance(function, ast.Attribute) else None
            name = function.id if isinstance(function, ast.Name) else None
            constants = [
                a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)
            ]
            modes = [value for value in constants if isinstance(value, str) and set(value) <= set("rwabt+x")]
            own = ast.unparse(function.value).rpartition(".")[2] if isinstance(function, ast.Attribute) else ""
            if (
                (method in ("read_text", "write_text") and own != "files")
                or ((name == "open" or method in ("open", "fdopen")) and own not in ("os", "webbrowser", "run_log"))
            ) and not any("b" in mode for mode in modes):
                yield path, node


def test_every_text_file_has_an_encoding() -> None:
    """The locale decides nothing. Archives' members and the like are opened as bytes, without a mode."""
    calls = list(text_files())
    assert len(calls) > 10
    bytes_by_default = ("archive.open", "gzip.open", "tarfile.open", "av.open")
    bad = [
        f"{path}:{node.lineno} {ast.unparse(node)}"
        for path, node in calls
        if not any(keyword.arg == "encoding" for keyword in node.keywords)
        and ast.unparse(node.func) not in bytes_by_default
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.medium
def test_files_do_not_depend_on_the_locale(wavbench: Wavbench, data_root: Path, tmp_path: Path) -> None:
    """Manifests, transcripts and results hold any character in a C locale, without Python's way out of it."""
    words = ["käse ÿ 你好", "ünïcode ว่า", "naïve Ω"]
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {}
    for split in ("train", "dev", "test"):
        rows[split] = []
        for i, word in enumerate(words):
            soundfile.write(tmp_path / f"{split}{i}.wav", 0.1 * rng.standard_normal(16000), 16000)
            row = {"id": f"{split} ñ{i}", "path": f"{split}{i}.wav", "text": word, "speaker": f"{split} é{i}"}
            rows[split].append(json.dumps(row, ensure_ascii=False))
        (tmp_path / f"{split}.jsonl").write_bytes("\n".join(rows[split]).encode())
    own = [argument for split in rows for argument in (f"--{split}", f"{split}.jsonl")]
    small = ["--max-steps", "2", "-o", "trainer.eval_every=2", "trainer.batch_size=2", "optim.warmup_steps=0"]
    done = wavbench("run", "-u", "wav2vec2_tiny", "-d", "asr", *own, *small, "-p", "run", env=C_LOCALE)
    assert done.returncode == 0, done.stderr.decode()
    for command in (
        ["validate", "test.jsonl", "--task", "asr"],
        ["table", "run"],
        ["list"],
        ["predict", "run", "test.jsonl"],
    ):
        done = wavbench(*command, env=C_LOCALE)
        assert done.returncode == 0, done.stderr.decode()
        done.stdout.decode("utf-8")  # a pipe gets UTF-8, as a file
    (references,) = (tmp_path / "run").glob("ref_test*.trn")
    assert "käse" in references.read_text(encoding="utf-8").lower()
    predictions = (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8")
    assert {json.loads(line)["id"] for line in predictions.splitlines()} == {f"test ñ{i}" for i in range(3)}


RECIPE = """
name: käse
upstreams: {fbank: {name: fbank}}
tasks: {voxceleb1_sv: {}}
regimes: {frozen: {regime: frozen}}
"""


@pytest.mark.medium
def test_names_that_the_locale_does_not_have(wavbench: Wavbench, tmp_path: Path) -> None:
    """They cannot be opened; that is said, with what to do, and known to the doctor."""
    soundfile.write(tmp_path / "käse.wav", np.zeros(1600), 16000)
    (tmp_path / "a.jsonl").write_text('{"id": "a", "path": "käse.wav"}\n', encoding="utf-8")
    done = wavbench("validate", "a.jsonl", env=C_LOCALE)
    assert done.returncode == 1
    assert "utterance a: " in done.stdout.decode()
    assert "'ascii' codec" in done.stdout.decode()
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = wavbench("recipe", "recipe.yaml", env=C_LOCALE)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.decode()
    assert "cannot name a file where names are in ascii" in done.stderr.decode()
    assert "PYTHONUTF8=1" in done.stderr.decode()
    done = wavbench("doctor", env=C_LOCALE)
    assert done.returncode == 1
    assert "problem 1: names of files are in ascii, as the locale says" in done.stdout.decode()
    assert wavbench("doctor", env=C_LOCALE | {"PYTHONUTF8": None}).returncode == 0  # Python's own way out


# -- terminals ---------------------------------------------------------------------------------------------------------


def in_a_terminal(*arguments: str, columns: int = 80, **environment: str) -> tuple[int, bytes]:
    """Exit status and output of ``wavbench ARGUMENTS`` on a terminal of its own."""
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover
        os.execve(sys.executable, [*COMMAND, *arguments], os.environ | {"COLUMNS": str(columns)} | environment)
    output = b""
    with contextlib.suppress(OSError):  # the terminal ends with the process
        while block := os.read(terminal, 65536):
            output += block
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), output


@pytest.mark.medium
def test_a_terminal_without_the_characters_shows_others() -> None:
    code, output = in_a_terminal("--help", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert code == 0
    assert b"usage: wavbench COMMAND ?" in output
    code, output = in_a_terminal("run", "--help", columns=7, TERM="dumb")
    assert code == 0
    assert b"--upstream" in output


@pytest.mark.medium
@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        (">&-", 0),
        ("2>&-", 0),
        ("<&- >&- 2>&-", 0),
        (">/dev/full", 1),
        ("2>/dev/full", 0),
        ("| true", 0),
        ("2>&1 | true", 0),
    ],
)
def test_streams_that_take_nothing(redirection: str, expected: int, tmp_path: Path) -> None:
    """Closed, full and broken ones: no traceback, no file in their place, nothing said at the end of the process."""
    command = " ".join(f"'{word}'" for word in COMMAND)
    for arguments in ("list", "run --help"):
        shell = f"set -o pipefail; {command} {arguments} {redirection}"
        done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        if arguments == "list":  # argparse leaves out help that cannot be written
            assert done.returncode == expected, done.stderr
        assert done.returncode in (0, 1), done.stderr
        assert "Exception" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


@pytest.mark.medium
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what a library prints would end up in it."""
    code = "from benchmark.cli import _usable_streams as u\nwith u(), open('x', 'w') as f: raise SystemExit(f.fileno())"
    for closed in ("<&- >&- 2>&-", ">&-", "2>&-"):
        done = subprocess.run(
            ["bash", "-c", f'{sys.executable} -c "{code}" {closed}'],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            timeout=60,
        )
        assert done.returncode > 2, closed


PROGRESS = """
import sys
from benchmark.cli import _call

def command(argv):
    from tqdm import tqdm
    for _ in tqdm(range(3), mininterval=0):
        print("a message", file=sys.stderr, flush=True)
    return 7

sys.exit(_call(command, []))
"""


@pytest.mark.medium
def test_a_run_outlives_its_terminal(wavbench: Wavbench, data_root: Path, tmp_path: Path) -> None:
    """Whoever reads what it prints is gone before the first line: messages, progress bars and the table are lost."""
    reader, writer = os.pipe()
    os.close(reader)
    done = wavbench(*RUN, "--data-root", data_root, "-p", "run", stdout=writer, stderr=writer)
    assert done.returncode == 0
    assert (tmp_path / "run" / "result.json").exists()
    assert wavbench("no_such_command", stderr=writer).returncode == 2
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    progress = subprocess.run([sys.executable, "-c", PROGRESS], stderr=writer, env=environment, timeout=60)
    os.close(writer)
    assert progress.returncode == 7


# -- folders -----------------------------------------------------------------------------------------------------------


def without_privileges() -> None:
    """Root may write everywhere; without these two capabilities it obeys permissions."""
    if os.getuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
                os._exit(77)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written to by :func:`without_privileges`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("capabilities are Linux's")
    folder = tmp_path / "read only"
    folder.mkdir()
    folder.chmod(0o555)
    probe = subprocess.run(["touch", str(folder / "x")], preexec_fn=without_privileges, capture_output=True)
    if probe.returncode in (0, 77):
        pytest.skip("this user may write everywhere")
    yield folder
    folder.chmod(0o755)


@pytest.mark.medium
def test_a_run_needs_no_folder_but_its_own(
    wavbench: Wavbench, data_root: Path, tmp_path: Path, read_only: Path
) -> None:
    """The current folder, the home folder and the cache are read-only."""
    environment: dict[str, str | None] = {
        "HOME": str(read_only), "BENCHMARK_CACHE": str(read_only / "cache"), "MPLCONFIGDIR": None,
    }  # fmt: skip
    options: dict[str, Any] = {"cwd": read_only, "env": environment, "preexec_fn": without_privileges}
    done = wavbench(*RUN, "--data-root", data_root, "-p", tmp_path / "out", **options)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "out" / "result.json").exists()
    assert list(read_only.iterdir()) == []

    done = wavbench(*RUN, "--data-root", data_root, **options)  # results/ in the current folder
    assert done.returncode == 1
    assert "cannot write into results/" in done.stderr.decode()
    assert "Permission denied. Choose another folder with -p" in done.stderr.decode()
    keep = ["-o", *SMALL[:4], "features.keep=true", "data.crop_seconds=null", "trainer.batch_size=4"]
    done = wavbench(*RUN[:7], *keep, "--data-root", data_root, "-p", tmp_path / "kept", **options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr.decode()
    assert "Permission denied" in done.stderr.decode()
    assert "; set BENCHMARK_CACHE to a folder that can be written" in done.stderr.decode()

    done = wavbench("doctor", **options)
    assert done.returncode == 1
    assert "the cache" in done.stdout.decode()
    assert "the results folder results cannot be written (Permission denied" in done.stdout.decode()


@pytest.mark.medium
def test_the_current_folder_is_deleted(wavbench: Wavbench, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = wavbench(*RUN, cwd=gone, preexec_fn=lambda: os.rmdir(gone))
    assert done.returncode == 1
    assert done.stderr == b"error: the current folder has been deleted; change to another one\n"


NO_NAME = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"


@pytest.mark.medium
def test_a_user_without_a_home(wavbench: Wavbench, data_root: Path, tmp_path: Path) -> None:
    """Containers are often run as a user that no file names, and without $HOME."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NAME)
    (tmp_path / "tmp").mkdir()
    environment: dict[str, str | None] = {
        "HOME": None, "XDG_CACHE_HOME": None, "BENCHMARK_CACHE": None, "PYTHONPATH": str(tmp_path / "site"),
        "TMPDIR": str(tmp_path / "tmp"),
    }  # fmt: skip
    done = wavbench(*RUN, "--data-root", data_root, "-p", "run", env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "tmp" / f"wavbench-{os.getuid()}" / "memory.sqlite").exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("BENCHMARK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "wavbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "wavbench"


@pytest.mark.medium
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_paths_with_spaces_and_unicode(form: str, wavbench: Wavbench, data_root: Path, tmp_path: Path) -> None:
    name = unicodedata.normalize(form, "mein Ördner [1] 'x' $HOME % 你好")
    here = tmp_path / name
    here.mkdir()
    (here / "data").symlink_to(data_root)
    environment: dict[str, str | None] = {"BENCHMARK_CACHE": str(here / "the cache")}
    done = wavbench(*RUN, "--data-root", here / "data", "-p", here / "a run", cwd=here, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    for command in (
        ["run", "-m", "evaluate", "-e", here / "a run"],
        ["run", "-e", here / "a run"],
        ["table", here],
        ["predict", here / "a run", next(data_root.rglob("*.wav"))],
        ["doctor", here / "a run"],
    ):
        done = wavbench(*command, cwd=here, env=environment)
        assert done.returncode == 0, (command, done.stderr.decode())


# -- start methods -----------------------------------------------------------------------------------------------------

DECODE = """
import multiprocessing, sys

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    from pathlib import Path
    from benchmark.data import manifest
    from benchmark.data.examine import examine
    from downstream.corpora.synthetic import writing

    utterances = [utterance for _, utterance in manifest.scan("a.jsonl", ()).rows]
    reports = examine(utterances, decode=True, workers=2)
    assert [len(report.problems) for report in reports] == [1, 0] * 50, reports[:3]
    with writing.processes(2) as pool:
        assert list(pool.map(len, ["a", "bb"])) == [1, 2]
    print("fine")
"""


@pytest.mark.medium
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pools_under_every_start_method(method: str, tmp_path: Path) -> None:
    """Decoding and synthesis have processes of their own, whatever the program's start method is."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.wav", 0.1 * rng.standard_normal(1600), 16000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(1600), 16000)
    rows = [{"id": str(i), "path": ("silence.wav", "noise.wav")[i % 2]} for i in range(100)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "program.py").write_text(DECODE)
    done = subprocess.run(
        [sys.executable, "program.py", method],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "BENCHMARK_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.medium
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_read_for_the_tasks_of_plug_in_files(method: str, wavbench: Wavbench, tmp_path: Path) -> None:
    """A spawned process knows no plug-in but by running its file."""
    _write_toys(tmp_path)
    (tmp_path / "site").mkdir()
    setting = f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(setting)
    own = ["-u", "study_toy", "-d", "study_down", "--plugin", "plugin.py", "--data-root", "data", "--max-steps", "2"]
    environment: dict[str, str | None] = {"PYTHONPATH": str(tmp_path / "site")}
    done = wavbench("run", *own, "-o", "data.workers=1", "-p", "run", env=environment)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.medium
def test_workers_read_for_the_cells_of_a_study(wavbench: Wavbench, tmp_path: Path) -> None:
    _write_toys(tmp_path)
    recipe = yaml.safe_load(test_study.RECIPE) | {"seeds": [0], "config": {"data": {"workers": 1}}}
    recipe["regimes"] = {"frozen": {"regime": "frozen"}}
    recipe["tasks"]["study_down"]["config"]["trainer"] |= {"max_steps": 4, "eval_every": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = wavbench("recipe", "recipe.yaml", "-o", "out", "--data-root", "data", "--jobs", 1)
    assert done.returncode == 0, done.stderr.decode()


def _write_toys(folder: Path) -> None:
    """The plug-in, and in ``data`` the corpus, of test_study."""
    unit = REPOSITORY / "tests" / "unit"
    (folder / "plugin.py").write_text(test_study.PLUGIN.format(tests=str(unit)))
    (folder / "data").mkdir()
    code = f"import sys; sys.path.insert(0, {str(unit)!r}); import toys, pathlib; toys.toy_corpus(pathlib.Path('data'))"
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
