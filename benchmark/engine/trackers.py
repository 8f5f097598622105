"""Where a run's curves, configuration and result can be followed: TensorBoard, Weights & Biases, MLflow.

A tracker changes nothing that a run computes, and one that fails (no network, no login, a full disk) ends in a warning.
The runs that were begun at trackers are kept in ``trackers.json``, so that a resumed run continues them.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmark import config
from benchmark.config import RunConfig
from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir, locked, write_text

log = logging.getLogger("wavbench")

FILE = "trackers.json"
PROJECT = "wavbench"
"""Project (W&B) or experiment (MLflow), unless $WANDB_PROJECT or $MLFLOW_EXPERIMENT_NAME says otherwise."""
_PATIENCE = 20.0
"""Seconds to wait for a server."""
_LONGEST = 128
"""Characters of a name or group at W&B."""


class Tracker:
    """One run at one tracker.

    Args:
        run: the configuration.
        folder: the experiment folder.
        group: what the run belongs to, of a study its name and cell; ``None``: nothing.
        step: updates before the first that is logged.
        saved: what :attr:`saved` was in an earlier process of the run, else empty.
    """

    requires: str | None = None
    """The module that an extra of the tracker's name installs."""
    takes_results = True

    def __init__(self, run: RunConfig, folder: Path, group: str | None, step: int, saved: dict[str, Any]) -> None:
        self.folder = folder
        self.saved = saved
        """What finds the run again, for JSON."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves."""
        raise NotImplementedError

    def attach(self, result: Mapping[str, Any]) -> None:
        """The content of ``result.json``, which lies in the folder."""

    def close(self, state: str) -> None:
        """The process is done with the run: ``finished``, ``stopped`` or ``failed``."""
        raise NotImplementedError


class TensorBoard(Tracker):
    """Event files in ``tensorboard/``."""

    takes_results = False

    def __init__(self, run: RunConfig, folder: Path, group: str | None, step: int, saved: dict[str, Any]) -> None:
        super().__init__(run, folder, group, step, saved)
        from torch.utils.tensorboard import SummaryWriter  # a second to import: not before it is needed

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:  # noqa: D102
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, state: str) -> None:  # noqa: D102
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run at W&B, which is also written to ``wandb/``; offline where the service cannot be used."""

    requires = "wandb"

    def __init__(self, run: RunConfig, folder: Path, group: str | None, step: int, saved: dict[str, Any]) -> None:
        super().__init__(run, folder, group, step, saved or {"id": secrets.token_hex(8)})
        import wandb

        def begin(mode: Literal["offline"] | None) -> Any:
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=self.saved["id"],
                name=_name(folder, group)[-_LONGEST:],
                group=group and group[-_LONGEST:],
                dir=str(folder.absolute()),
                mode=mode,
                resume="allow",
                reinit="create_new",  # runs in other threads have their own
                config=yaml.safe_load(config.to_yaml(run)),
                allow_val_change=True,  # what may differ between parts of a run
                settings=wandb.Settings(
                    console="off",  # the log is in log.txt
                    silent=True,
                    login_timeout=60,
                ),
            )

        try:
            settings = wandb.setup().settings
            if settings.mode == "online":
                _check_answers(settings.base_url)  # W&B itself would try for a long time
            self._run = begin(None)
            if self._run.settings.mode == "disabled" and os.environ.get("WANDB_MODE") != "disabled":
                raise RuntimeError("not logged in; run wandb login")
        except Exception as error:  # no network, no login
            log.warning(
                "wandb: %s. The run is recorded offline; upload it with wandb sync %s/wandb/offline-run-*",
                _reason(error),
                folder,
            )
            self._run = begin("offline")

    def log(self, values: Mapping[str, float], step: int) -> None:  # noqa: D102
        self._run.log(dict(values), step=step)

    def attach(self, result: Mapping[str, Any]) -> None:  # noqa: D102
        self._run.summary.update(dict(_figures(result)))
        for name in ("result.json", "config.yaml"):
            shutil.copyfile(self.folder / name, Path(self._run.dir) / _attached(name))

    def close(self, state: str) -> None:  # noqa: D102
        self._run.finish(exit_code={"finished": 0, "stopped": 130}.get(state, 1))


class MLflow(Tracker):
    """A run at an MLflow server or in its files: $MLFLOW_TRACKING_URI, else MLflow's default, else ``./mlruns``."""

    requires = "mlflow"

    def __init__(self, run: RunConfig, folder: Path, group: str | None, step: int, saved: dict[str, Any]) -> None:
        super().__init__(run, folder, group, step, saved)
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # the only one that mlflow-skinny has
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a run does not wait long for a server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", f"{_PATIENCE:.0f}")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None and importlib.util.find_spec("sqlalchemy") is None:
            uri = saved.get("uri") or (Path.cwd() / "mlruns").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        self._last: dict[str, int] = {}
        """Curve -> the last update that an earlier process has logged."""
        if saved:
            known = self._client.get_run(saved["id"])
            self._client.update_run(saved["id"], status="RUNNING")
            for key in known.data.metrics:
                self._last[key] = max(point.step for point in self._client.get_metric_history(saved["id"], key))
        else:
            tags = {"wavbench.folder": str(folder.absolute())} | ({"wavbench.group": group} if group else {})
            name = _name(folder, group)
            begun = self._client.create_run(self._experiment(), run_name=name, tags=tags)
            self.saved = {"id": begun.info.run_id, "uri": uri}
            params = [Param(key, str(value)[:500]) for key, value in config.flatten(run).items()]
            for first in range(0, len(params), 100):  # as many as MLflow takes at a time
                self._client.log_batch(begun.info.run_id, params=params[first : first + 100])

    def _experiment(self) -> str:
        if "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        cache_dir().mkdir(parents=True, exist_ok=True)
        with locked(cache_dir() / ".mlflow.lock"):  # the cells of a study start together
            known = self._client.get_experiment_by_name(name)
            return str(known.experiment_id if known else self._client.create_experiment(name))

    def log(self, values: Mapping[str, float], step: int) -> None:  # noqa: D102
        now = int(time.time() * 1000)
        points = [(re.sub(r"[^\w. /-]", "_", name), value) for name, value in values.items()]
        metrics = [self._metric(name, value, now, step) for name, value in points if step > self._last.get(name, -1)]
        if metrics:
            self._client.log_batch(self.saved["id"], metrics=metrics)

    def attach(self, result: Mapping[str, Any]) -> None:  # noqa: D102
        self._last = {}
        self.log({name: value for name, value in _figures(result) if isinstance(value, int | float)}, 0)
        for name in ("result.json", "config.yaml"):
            content = (self.folder / name).read_text(encoding="utf-8")
            self._client.log_text(self.saved["id"], content, _attached(name))

    def close(self, state: str) -> None:  # noqa: D102
        states = {"finished": "FINISHED", "stopped": "KILLED"}
        self._client.set_terminated(self.saved["id"], states.get(state, "FAILED"))


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


class Trackers:
    """The trackers of a run: ``trainer.trackers``.

    Args:
        run: the configuration.
        folder: the experiment folder.
        group: what the run belongs to, of a study its name and cell.
    """

    def __init__(self, run: RunConfig, folder: Path, group: str | None = None) -> None:
        self.run, self.folder, self.group = run, folder, group
        self._open: dict[str, Tracker] = {}

    def start(self, step: int) -> None:
        """Begin, or continue, after ``step`` updates.

        Raises:
            BenchmarkError: a tracker's package is not installed.
        """
        for name in self.run.trainer.trackers:
            module = TRACKERS[name].requires
            if module is not None and importlib.util.find_spec(module) is None:
                raise BenchmarkError(
                    f"trainer.trackers names {name}, which is not installed: pip install -e '.[{name}]'"
                )
        for name in self.run.trainer.trackers:
            self._begin(name, step)

    def _begin(self, name: str, step: int) -> None:
        with self._forgiving(name):
            saved = _read(self.folder / FILE)
            tracker = TRACKERS[name](self.run, self.folder, self.group, step, saved.get(name, {}))
            self._open[name] = tracker
            if tracker.saved and saved.get(name) != tracker.saved:
                write_text(self.folder / FILE, json.dumps(saved | {name: tracker.saved}, indent=1) + "\n")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log points of curves, all at one update."""
        self._each(lambda tracker: tracker.log(values, step))

    def attach(self, result: Mapping[str, Any], folder: Path) -> None:
        """Attach the result of the run, which has been written to ``folder``; not that of another evaluation."""
        if folder != self.folder:
            return
        for name in self.run.trainer.trackers:
            if TRACKERS[name].takes_results and name not in self._open:  # trained by an earlier process
                self._begin(name, self.run.trainer.max_steps)
        self._each(lambda tracker: tracker.attach(result))

    @contextmanager
    def closing(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Close them at the end of the block; where it raises, ``stopped`` says whether somebody has asked for it."""
        state = "failed"
        try:
            yield
            state = "finished"
        finally:
            if state == "failed" and stopped():
                state = "stopped"
            self._each(lambda tracker: tracker.close(state))
            self._open = {}

    def _each(self, use: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._forgiving(name):
                use(tracker)

    @contextmanager
    def _forgiving(self, name: str) -> Iterator[None]:
        """A tracker that fails is not used any more."""
        try:
            yield
        except Exception as error:  # whatever their libraries raise
            self._open.pop(name, None)
            log.warning("%s: %s. The run continues without this tracker", name, _reason(error))


def _check_answers(url: str) -> None:
    """Raise ``OSError`` where nothing answers; any answer will do."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # certificates that W&B may know
            raise OSError(f"{url} cannot be reached ({error.reason})") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def _name(folder: Path, group: str | None) -> str:
    return folder.absolute().name if group is None else f"{group}/{folder.name}"


def _attached(name: str) -> str:
    """Not the name itself: results are looked for by it, below folders that trackers may write to."""
    return f"wavbench_{name}"


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What of a result is worth a column."""
    for kind in ("selected", "cost"):
        yield from ((f"{kind}/{name}", value) for name, value in result[kind].items())
    for split, metrics in result["metrics"].items():
        name = "selected" if split == "dev" else split  # dev/… are curves
        yield from ((f"{name}/{metric}", value) for metric, value in metrics.items())


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split())[:300] or type(error).__name__).rstrip(".")
