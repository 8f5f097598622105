"""Splits: what they share is found, and their digests change with everything that a result depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data import manifest
from benchmark.data.splits import check_disjoint, check_ids, digest, durations, overlaps, summary
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance


def test_disjoint_splits_pass() -> None:
    check_disjoint(
        {
            "train": [
                Utterance("a", "/x/1.wav", 0.0, 0.3),
                Utterance("a2", "/x/1.wav", 0.1, 0.2),  # within one split anything may overlap
                Utterance("b", "/x/2.wav"),
            ],
            "dev": [Utterance("c", "/x/1.wav", 0.1 + 0.2, 1.0)],  # 0.30000000000000004
            "test": [Utterance("d", "/x/1.wav", 1.276, 5.0), Utterance("e", "/y/2.wav")],
        }
    )


@pytest.mark.parametrize(
    ("train", "test", "parts"),
    [
        (Utterance("a", "/x/1.wav"), Utterance("a", "/x/1.wav"), ["1 problem", "'a' is in train and in test\n"]),
        (Utterance("a", "/x/1.wav"), Utterance("a", "/y/1.wav"), ["for two files: /x/1.wav and /y/1.wav"]),
        (Utterance("a", "/x/1.wav"), Utterance("b", "/x/1.wav"), ["'a' of train and 'b' of test", "from 0.000 s"]),
        (Utterance("a", "/x/1.wav", 1.0, 2.0), Utterance("b", "/x/1.wav", 2.5), ["/x/1.wav, 2.500–3.000 s"]),
        (Utterance("a", "/x/1.wav", 2.5), Utterance("b", "/x/1.wav", 1.0, 2.0), ["'b' of test and 'a' of train"]),
        (Utterance("a", "/x/1.wav", 1.0, 2.0), Utterance("b", "/x/1.wav", 2.974, 2.0), ["2.974–3.000 s"]),
    ],
)  # fmt: skip
def test_shared_utterances_are_named(train: Utterance, test: Utterance, parts: list[str]) -> None:
    more = {"train": [train, Utterance("p", "/p.wav")], "dev": [Utterance("q", "/q.wav")], "test": [test]}
    with pytest.raises(BenchmarkError) as caught:
        check_disjoint(more)
    for part in ["train and dev and test must not share utterances", *parts]:
        assert part in f"{caught.value}\n"


def test_a_long_stretch_hides_none_behind_it() -> None:
    splits = {
        "train": [Utterance("long", "/1", 0.0, 100.0), Utterance("short", "/1", 1.0, 1.0)],
        "test": [Utterance("t1", "/1", 50.0, 1.0), Utterance("t2", "/1", 99.0, 5.0), Utterance("t3", "/1", 101.0)],
    }  # fmt: skip
    assert [line.split(" share")[0] for line in overlaps(splits)] == [
        "'long' of train and 't1' of test",
        "'long' of train and 't2' of test",
    ]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 30), st.integers(1, 8)), max_size=12))
@settings(max_examples=200, deadline=None)
def test_overlaps_are_found_as_by_comparing_all(spans: list[tuple[int, int, int, int]]) -> None:
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for number, (split, file, start, length) in enumerate(spans):
        list(splits.values())[split].append(Utterance(f"u{number}", f"/{file}.wav", float(start), float(length)))
    expected = any(
        u.path == v.path and u.start < v.start + v.duration and v.start < u.start + u.duration  # type: ignore[operator]
        for one, us in splits.items()
        for other, vs in splits.items()
        if one < other
        for u in us
        for v in vs
    )
    assert bool(overlaps(splits)) == expected


def test_one_file_behind_two_folders(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    splits = {"train": [Utterance("a", f"{tmp_path}/real/a.wav")], "test": [Utterance("b", f"{tmp_path}/link/a.wav")]}
    assert len(overlaps(splits)) == 1


class CountedStr(str):
    """Counts how often one is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedStr.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_work_grows_with_the_number_of_utterances_not_with_its_square() -> None:
    def comparisons(number: int) -> int:
        CountedStr.comparisons = 0
        utterances = [
            Utterance(CountedStr(f"u{n}"), CountedStr(f"/corpora/{n % 7}/{n}.wav"), 0.0, 4.0) for n in range(number)
        ]
        check_disjoint({"train": utterances[: number // 2], "dev": utterances[number // 2 :]})
        return CountedStr.comparisons

    assert comparisons(4000) < 5 * comparisons(1000) + 4000


def test_digest_and_summary_are_those_of_results(tmp_path: Path) -> None:
    given_list = [Utterance("a", "/x/a.wav", 0.5, 1.0, "t", "s", "de", "v"), Utterance("b", "/x/b.wav", speaker="s")]
    assert summary(given_list, np.array([1.0, 2.0])) == {
        "utterances": 2, "seconds": 3.0, "speakers": 1, "languages": 1, "digest": digest(given_list),
    }  # fmt: skip
    assert digest(given_list) == "e933fbb02b13f6d6"
    manifest.write(tmp_path / "a.csv", given_list)
    assert digest(manifest.read(tmp_path / "a.csv")) == digest(given_list)
    assert digest(given_list[::-1]) != digest(given_list)


def test_digests_contain_gender_and_labels_where_they_are_known() -> None:
    plain = [Utterance("a", "/x/a.wav", 0.5, 1.0, "t", "s", "de", "v"), Utterance("b", "/x/b.wav", speaker="s")]
    first, second = plain
    variants = [
        plain,
        [replace(first, gender="f"), second],
        [replace(first, gender="m"), second],
        [first, replace(second, gender="f")],
        [replace(first, labels={"emotion": "joy"}), second],
        [replace(first, labels={"emotion": "calm"}), second],
        [replace(first, labels={"mood": "joy"}), second],
        [replace(first, labels={"emotion": "joy", "intent": "ask"}), second],
    ]
    assert len({digest(utterances) for utterances in variants}) == len(variants)
    assert digest(variants[-1]) == digest([replace(first, labels={"intent": "ask", "emotion": "joy"}), second])
    assert digest([replace(first, path="/elsewhere.wav", split="x", labels={}), second]) == digest(plain)


def test_an_id_of_other_audio_is_refused(tmp_path: Path) -> None:
    """What is evaluated may have come from another manifest, with the paths as ids."""
    for name, size in (("a", 1600), ("b", 1600), ("c", 3200)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(size), 16000)
    one, same, longer = (Utterance("1.wav", str(tmp_path / f"{name}.wav")) for name in "abc")
    assert durations([one, one]) == {"1.wav": 0.1}
    check_ids([one], [one, Utterance("2.wav", same.path)])
    for other in (same, longer):
        with pytest.raises(BenchmarkError, match=r"same ids as 1 utterance, the first is '1\.wav' .*column id"):
            check_ids([one], [other])


def test_an_id_is_of_one_stretch() -> None:
    """Predictions are kept by id: of two test sets with equal ids, one was scored by the other's."""
    splits = {"test": [Utterance("1", "/clean/1.wav"), Utterance("1", "/other/1.wav"), Utterance("2", "/2.wav")] * 2}
    with pytest.raises(BenchmarkError, match=r"'1' is twice in test, of /clean/1\.wav and /other/1\.wav"):
        check_disjoint(splits)
