"""The cards ``real_…``: they fit their corpus, and say what else could explain results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import Cli

from benchmark.engine.prepare import Preparer, configure
from benchmark.registry import downstreams
from downstream.protocols import read_card

CARDS: dict[str, Any] = {
    entry.name: entry.load()()
    for entry in downstreams
    if entry.origin == "built in" and entry.load()()["corpus"] == "debian_speech"
}


def test_there_are_cards() -> None:
    names = ["real_asr", "real_asr_ru", "real_lid", "real_lid_fish", "real_lid_rotation2", "real_sv"]
    assert sorted(CARDS) == names
    assert all(card["confounds"] and card["source"] and card["deviations"] for card in CARDS.values())


@pytest.mark.medium
@pytest.mark.parametrize("name", CARDS)
def test_every_card_fits_its_corpus(name: str, corpora_root: Path) -> None:
    overrides = [
        "upstream.name=fbank",
        f"data.root={corpora_root}",
        *(["task.dev_speakers=2"] if name == "real_sv" else []),
    ]
    run = configure(name, [], overrides)
    splits, seconds = Preparer().splits(run)
    for part in (splits.train, splits.dev, splits.test):
        assert part
        assert all(seconds[utterance.id] > 0 for utterance in part)
    if name.startswith("real_lid"):
        assert {u.language for u in splits.test} <= {u.language for u in splits.train}
        assert not {u.speaker for u in splits.train} & {u.speaker for u in splits.test}


def test_list_shows_what_a_card_says(cli: Cli) -> None:
    done = cli("list", "real_sv")
    assert done.returncode == 0
    assert "task: sv, corpus: debian_speech" in done.stdout
    assert "confounds:\n  - Character verification, not speaker verification" in done.stdout
    assert "deviations:" in done.stdout
    done = cli("list", "real_svv")
    assert done.returncode == 1
    assert "real_sv" in done.stderr


def test_a_card_inherits_confounds_until_it_has_its_own(tmp_path: Path) -> None:
    base = "name: a\nversion: 1\nsummary: s\ntask: sv\ncorpus: c\nconfounds: [one]\n"
    (tmp_path / "a.yaml").write_text(base)
    (tmp_path / "b.yaml").write_text("name: b\nextends: a\nsummary: t\n")
    (tmp_path / "c.yaml").write_text("name: c\nextends: a\nsummary: t\nconfounds: [two]\n")
    assert [read_card(tmp_path / f"{name}.yaml")["confounds"] for name in "abc"] == [["one"], ["one"], ["two"]]
