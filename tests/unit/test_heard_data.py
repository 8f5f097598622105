"""A result says where the upstream was trained on the corpus that it is tested on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toys import ToyTask, ToyUpstream, toy_corpus

from benchmark import registry
from benchmark.engine import prepare
from benchmark.engine.run import run

__all__ = ["ToyTask", "corpus"]


def corpus(root: Path) -> Any:
    return toy_corpus(root)


class Trained(ToyUpstream):
    def __init__(self, on: str = "") -> None:
        super().__init__()
        self.info = {"pretrained_on": on.split()}


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(("on", "heard"), [("CommonVoice Toy", True), ("CommonVoice", False), ("", False)])
def test_the_result_warns(on: str, heard: bool, tmp_path: Path) -> None:
    here = "test_heard_data"
    card = {"name": "toy", "task": f"{here}:ToyTask", "corpus": f"{here}:corpus", "config": {}}
    registry.upstreams.register("trained", Trained)
    registry.downstreams.register("toy", lambda: card)
    small = ["trainer.max_steps=4", "trainer.eval_every=2", "device=cpu", "upstream.name=trained",
             f"data.root={tmp_path}", f"upstream.options.on='{on}'"]  # fmt: skip
    run(prepare.configure("toy", [], small), tmp_path / "run")
    warnings = json.loads((tmp_path / "run" / "result.json").read_text())["warnings"]
    found = [warning for warning in warnings if "was trained on" in warning]
    assert found == (
        [
            "upstream 'trained' was trained on Toy, and the test set of this run, toy, is of that corpus or shares its "
            "source: the result may be better than on speech that is new to the upstream"
        ]
        if heard
        else []
    )


@pytest.mark.parametrize(
    ("upstream", "corpus", "names"),
    [
        ("wav2vec2_base", "debian_speech librispeech", "LibriSpeech"),
        ("wav2vec2_tiny", "debian_speech librispeech", "DebianSpeech"),
        ("whisper_base", "debian_speech librispeech", "?"),
        ("w2v_bert_2", "voxceleb1", "?"),
        ("whisper_local", "voxceleb1", None),
        ("wav2vec2_base", "librispeech", "LibriSpeech"),
        ("hubert_large", "librispeech", "Libri-Light"),
        ("data2vec2_base", "librispeech", "LibriSpeech"),
        ("data2vec2_large_ft_960h", "librispeech", "Libri-Light, LibriSpeech"),
        ("xls_r_300m", "voxlingua107", "VoxLingua107"),
        ("mms_300m", "commonlanguage", "CommonVoice"),
        ("wavlm_base_plus", "voxceleb1", None),
        ("wav2vec2_base", "manifest", None),
        ("wav2vec2_tiny", "debian_speech", "DebianSpeech"),
        ("bestrq_tiny", "debian_speech", "DebianSpeech"),
        ("bestrq_tiny", "voxceleb1", None),
    ],
)
def test_published_checkpoints(upstream: str, corpus: str, names: str | None, caplog: pytest.LogCaptureFixture) -> None:
    from upstream.bestrq.cards import read_cards as read_bestrq
    from upstream.wav2vec2.cards import read_cards
    from upstream.whisper.cards import read_cards as read_whisper

    card = (read_cards() | read_bestrq() | read_whisper())[upstream]
    info = {"data": card.data, "pretrained_on": list(card.pretrained_on)}
    corpus, *sources = corpus.split()
    prepared = SimpleNamespace(
        task=SimpleNamespace(splits=SimpleNamespace(corpus=corpus, sources=sources)),
        upstream=SimpleNamespace(info=info),
        run=SimpleNamespace(upstream=SimpleNamespace(name=upstream)),
    )
    with caplog.at_level("WARNING"):
        prepare._warn_of_heard_data(prepared)  # type: ignore[arg-type]
    if names == "?":
        said = (
            f"what upstream '{upstream}' was trained on is not published by corpus ({card.data}): whether it has heard "
        )
        assert caplog.messages == [f"{said}the test set of this run, {', '.join([corpus, *sources])}, is not known"]
    else:
        messages = [f"'{upstream}' was trained on {names}, " in message for message in caplog.messages]
        assert messages == [True] * bool(names)


@pytest.mark.medium
def test_a_test_set_of_several_corpora(corpora_root: Path) -> None:
    """LibriSpeech's part is there, is asked for, or is the only one."""

    def sources(*overrides: str) -> tuple[str, ...]:
        settings = prepare.configure("real_asr", [], ["upstream.name=fbank", f"data.root={corpora_root}", *overrides])
        return prepare.Preparer().splits(settings)[0].sources

    assert sources() == sources("task.test_splits=[librispeech-test-other]") == ("librispeech",)
    assert sources("task.test_splits=[en-test, asterisk-en]") == ()
