from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from benchmark import config
from benchmark.errors import BenchmarkError


@dataclass
class Options:
    margin: float = 0.4


CARD: dict[str, Any] = {"name": "toy", "version": 3, "config": {"optim": {"lr": 0.5}, "task": {"margin": 0.1}}}
UPSTREAM = [("-u", {"upstream": {"name": "u"}})]


def compose(*overrides: str, layers: list[tuple[str, dict[str, Any]]] | None = None) -> config.RunConfig:
    return config.compose(CARD, Options, [*UPSTREAM, *(layers or [])], overrides)


def as_saved(run: config.RunConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(config.to_yaml(run))))


def test_later_layers_win() -> None:
    run = compose("optim.lr=2e-3", layers=[("file", {"optim": {"lr": 0.25}, "seed": 7})])
    assert run.optim.lr == 2e-3
    assert run.seed == 7
    assert run.task == Options(margin=0.1)
    assert (run.downstream, run.protocol_version) == ("toy", 3)
    assert compose().optim.lr == 0.5


def test_names_of_earlier_versions_are_read() -> None:
    run = compose("regime=single_layer", "featurizer.layer=3")
    assert (run.regime, run.featurizer.layer) == ("single_layer", 3)
    assert compose("regime=probe", "featurizer.state=3") == run
    assert compose(layers=[("file", {"regime": "probe", "featurizer": {"state": 3}})]) == run
    saved = as_saved(run) | {"regime": "probe", "featurizer": {"state": 3, "normalize": False}}
    assert config.differences(saved, run) == []


def test_s3prl_form_of_overrides() -> None:
    run = compose("config.optim.lr=1e-2,,trainer.batch_size=3", "task.margin=0.2")
    assert (run.optim.lr, run.trainer.batch_size, run.task.margin) == (1e-2, 3, 0.2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", ["optim.lrr", "Did you mean", "optim.lr"]),
        ("task.margn=1", ["task.margn", "task.margin"]),
        ("trainer.batch_size=many", ["trainer.batch_size", "many"]),
        ("trainer.batch_size=0", ["trainer.batch_size", "at least 1"]),
        ("optim.name=sgd", ["optim.name", "sgd", "adamw"]),
        ("optim.lr", ["key=value"]),
        ("regime=frozzen", ["frozzen", "frozen"]),
        ("regime=probe", ["-l K"]),
        ("regime=single_layer", ["-l K"]),
        ("featurizer.layer=3", ["--regime single_layer"]),
        ("featurizer.state=3", ["--regime single_layer"]),
        ("data.crop_seconds=-1", ["data.crop_seconds"]),
        ("optim.betas=[0.9]", ["optim.betas"]),
        ("trainer=3", ["trainer"]),
    ],
)
def test_a_bad_override_is_named(override: str, words: list[str]) -> None:
    with pytest.raises(BenchmarkError) as caught:
        compose(override)
    for word in words:
        assert word in str(caught.value)


def test_a_bad_file_is_named() -> None:
    with pytest.raises(BenchmarkError, match=r"my\.yaml: unknown option 'trainer\.bach_size'.*trainer\.batch_size"):
        compose(layers=[("my.yaml", {"trainer": {"bach_size": 2}})])


def test_yaml_repeats_the_run(tmp_path: Any) -> None:
    run = compose("optim.lr=3e-5", "upstream.options.x=1")
    (tmp_path / "config.yaml").write_text(config.to_yaml(run))
    saved = config.read_yaml(tmp_path / "config.yaml")
    again = config.compose(CARD, Options, [("config.yaml", saved)])
    assert again == run
    assert config.differences(saved, again) == []


def test_digest_and_differences_ignore_only_where_it_runs() -> None:
    run = compose()
    for same in ("data.workers=2", "data.root=/elsewhere", "trainer.save_every=9", "trainer.log_every=9"):
        assert config.digest(compose(same)) == config.digest(run)
        assert config.differences(as_saved(run), compose(same)) == []
    for other in ("seed=1", "optim.lr=1", "task.margin=1", "upstream.name=v"):
        assert config.digest(compose(other)) != config.digest(run)
        (difference,) = config.differences(as_saved(run), compose(other))
        assert other.split("=")[0] in difference


def test_unreadable_files(tmp_path: Any) -> None:
    with pytest.raises(BenchmarkError, match="not found"):
        config.read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(BenchmarkError, match="mapping"):
        config.read_yaml(tmp_path / "list.yaml")
    (tmp_path / "table.yaml").write_text("id,path\na,b\n")
    with pytest.raises(BenchmarkError, match="expected a mapping of options, found str"):
        config.read_yaml(tmp_path / "table.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(BenchmarkError, match="not readable YAML"):
        config.read_yaml(tmp_path / "broken.yaml")


def test_a_card_has_values_of_its_own_for_fine_tuning() -> None:
    card = CARD | {"config": {"optim": {"lr": 1.0, "eps": 0.5}}, "finetune": {"optim": {"lr": 2.0}}}

    def lr(*overrides: str, layers: tuple[tuple[str, Any], ...] = ()) -> tuple[float, float]:
        optim = config.compose(card, Options, layers, ["upstream.name=u", *overrides]).optim
        return optim.lr, optim.eps

    assert lr() == (1.0, 0.5)
    assert lr("regime=finetune") == (2.0, 0.5)
    assert lr(layers=(("flags", {"regime": "lora"}),)) == (2.0, 0.5)
    assert lr("regime=partial", "tune.top_blocks=1", "optim.lr=3") == (3.0, 0.5)  # what the user says comes last


def test_phases_that_outlast_the_run_are_refused() -> None:
    for option in ("tune.freeze_updates=10", "optim.warmup_steps=10"):
        with pytest.raises(BenchmarkError, match=rf"{option.replace('.', r'[.]')} of trainer\.max_steps=10"):
            compose("regime=finetune", "trainer.max_steps=10", option)
    compose("regime=finetune", "trainer.max_steps=11", "tune.freeze_updates=10", "optim.warmup_steps=10")
    compose("trainer.max_steps=10", "tune.freeze_updates=10")  # frozen: there is nothing to wait for


@pytest.mark.parametrize(
    ("overrides", "warmup"),
    [
        (["optim.warmup_steps=100"], 100),
        (["optim.warmup_steps=100", "trainer.max_steps=500"], 100),
        (["optim.warmup_steps=100", "trainer.max_steps=10"], 1),
        (["optim.warmup_steps=100", "trainer.max_steps=200", "trainer.max_steps=50"], 5),
        (["optim.warmup_steps=100", "trainer.max_steps=10", "optim.warmup_steps=9"], 9),
    ],
)
def test_a_shorter_run_has_a_shorter_warm_up(overrides: list[str], warmup: int) -> None:
    """Only where the updates would end within it, and it was not given with them."""
    assert compose("trainer.max_steps=1000", *overrides).optim.warmup_steps == warmup


def test_a_warm_up_that_is_given_with_the_updates_is_not_changed() -> None:
    with pytest.raises(BenchmarkError, match=r"optim\.warmup_steps=20 of trainer\.max_steps=10"):
        compose("trainer.max_steps=10", "optim.warmup_steps=20")
