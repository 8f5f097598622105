"""What ``fuzzing.py`` damages and reads: every kind of file that somebody else may have made."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damaged_checkpoints
import numpy as np
import soundfile
import torch
import yaml
from fuzzing import Reader

from benchmark import config, registry, results
from benchmark.data import archives, audio, headers, manifest, shards
from benchmark.data.importers import IMPORTERS
from benchmark.data.trials import read_trials
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance

ROWS = [
    {"id": "a1", "path": "wav/a1.wav", "speaker": "anna", "text": "good morning", "emotion": "joy", "start": 0.5},
    {"id": "a2", "path": "/corpora/é.flac", "duration": 3.25, "speaker": "ben", "gender": "f", "emotion": "calm"},
    {"id": "a3", "path": "b c.wav", "language": "en", "session": "s", "split": "x", "text": 'is "it" far'},
]


def every(paths: list[Path], read: Callable[[Path], object]) -> None:
    """Read all of them, whatever comes of the others."""
    problems = []
    for path in paths:
        try:
            read(path)
        except BenchmarkError as error:
            problems.append(str(error))
    if problems:
        raise BenchmarkError("\n".join(problems))


# ---------------------------------------------------------------------------------------------------------- manifests


def write_manifests(folder: Path) -> None:
    fields: list[dict[str, Any]] = [dict(row) for row in ROWS[:2]]
    utterances = [Utterance(labels={"emotion": row.pop("emotion")}, **row) for row in fields]
    for name in ("m.jsonl", "m.csv", "m.tsv"):
        manifest.write(folder / name, utterances)
    (folder / "m.json").write_text(json.dumps(ROWS))


def read_manifests(folder: Path) -> None:
    every(sorted(folder.glob("m.*")), lambda path: manifest.read(path, ["emotion"]))


def read_trial_lists(folder: Path) -> None:
    read_trials(folder / "trials.txt", {"a/1.wav", "b/2.wav", "c d/3.wav"})


def write_trial_lists(folder: Path) -> None:
    (folder / "trials.txt").write_text("1 a/1.wav b/2.wav\n0 a/1.wav c%20d/3.wav\n0\tc d/3.wav\ta/1.wav\n")


# ---------------------------------------------------------------------------------------------------------- importers


def wav(path: Path, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(int(16000 * seconds)) * 0.1
    soundfile.write(path, noise.astype(np.float32), 16000)


def write_kaldi(folder: Path) -> None:
    wav(folder / "r1.wav", 2.0)
    (folder / "wav.scp").write_text("r1 r1.wav\nr2 flac -c -d -s r1.wav |\nr3 sox r1.wav -t wav - |\n")
    (folder / "segments").write_text("u1 r1 0.0 1.0\nu2 r2 0.5 1.5\nu3 r3 1 -1\n")
    (folder / "text").write_text("u1 good morning\nu2 é\nu3 x\n")
    (folder / "utt2spk").write_text("u1 anna\nu2 ben\nu3 anna\n")
    (folder / "spk2gender").write_text("anna f\nben m\n")
    (folder / "utt2lang").write_text("u1 en\nu2 de\nu3 en\n")
    (folder / "trials").write_text("u1 u2 nontarget\nu1 u3 target\n")


def write_lhotse(folder: Path) -> None:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    wav(folder / "r1.wav", 2.0)
    recording = Recording.from_file(folder / "r1.wav", recording_id="r1")
    segment = SupervisionSegment("s1", "r1", 0.0, 1.0, text="good", speaker="anna", language="en", gender="female")
    cut = MonoCut("c1", 0.0, 2.0, 0, [segment], recording=recording)
    CutSet.from_cuts([cut]).to_file(folder / "cuts.jsonl")


def write_datasets(folder: Path) -> None:
    import datasets

    wav(folder / "a.wav")
    rows = {"path": [str(folder / "a.wav")] * 3, "text": ["a", "b", "c"], "speaker": ["x", "y", "x"]}
    datasets.Dataset.from_dict(rows).save_to_disk(folder / "data")
    for path in (folder / "data").glob("dataset_info.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if v}))


def importer(name: str, inside: str = "") -> Callable[[Path], object]:
    return lambda folder: IMPORTERS[name](folder / inside, folder / "out")


# ------------------------------------------------------------------------------------------------------ configurations


def write_configurations(folder: Path) -> None:
    values = {
        "upstream": {"name": "wav2vec2_tiny", "options": {"layerdrop": 0.0}}, "regime": "partial", "seed": 3,
        "tune": {"top_blocks": 1}, "optim": {"lr": 0.1, "schedule": "constant"}, "budget": "10min+8utt/speaker",
        "trainer": {"max_steps": 10}, "data": {"root": "data", "crop_seconds": 2.0}, "task": {"label": "emotion"},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(values))


def read_configurations(folder: Path) -> None:
    from benchmark.engine.prepare import configure

    configure("classify", [("run.yaml", config.read_yaml(folder / "run.yaml"))], ["task.label=emotion"])


def write_recipe(folder: Path) -> None:
    from made_studies import study_yaml

    values = study_yaml()
    values["upstreams"] = {"tiny": {"name": "wav2vec2_tiny"}}
    values["tasks"] = {"voxceleb1_sv": {"budgets": ["10min", "all"], "config": {"trainer": {"max_steps": 3}}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def read_recipe(folder: Path) -> None:
    from benchmark.study.recipe import cells, read

    cells(read(folder / "study.yaml"))


def write_card(folder: Path) -> None:
    from downstream import protocols

    shutil.copyfile(Path(str(protocols.__file__)).with_name("voxceleb1_sv.yaml"), folder / "voxceleb1_sv.yaml")


def read_card(folder: Path) -> None:
    from downstream.protocols import read_card as read

    read(folder / "voxceleb1_sv.yaml")


# --------------------------------------------------------------------------------------------------------------- packs


def members() -> dict[str, bytes]:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(0).standard_normal(3000) * 0.1, 16000, format="WAV")
    return {f"d/{number}.wav": content.getvalue() for number in range(3)}


def write_archives(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, data in members().items():
            info = tarfile.TarInfo(name if name != "d/1.wav" else "d/" + "long" * 40 + ".wav")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    for name, method in (("b.zip", zipfile.ZIP_STORED), ("c.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / name, "w", method) as packed:
            for member, data in members().items():
                packed.writestr(member, data)


def read_archives(folder: Path) -> None:
    def read(path: Path) -> None:
        paths = [f"{path}/{member.name}" for member in archives.index(str(path))]
        every([Path(p) for p in paths], lambda p: audio.load(Utterance("u", str(p)), 16000))

    every(sorted(folder.glob("?.*")), read)


def write_pack(folder: Path) -> None:
    for number in range(4):
        wav(folder.parent / "loose" / f"{number}.wav")
    utterances = [Utterance(f"u{n}", str(folder.parent / "loose" / f"{n}.wav"), speaker="s", labels={"emotion": "x"})
                  for n in range(4)]  # fmt: skip
    from benchmark.interfaces import Corpus, Trial

    corpus = Corpus("voxceleb1", {"dev": utterances[:2], "test": utterances[2:]}, {"veri": [Trial(1, "u2", "u3")]})
    shards.pack({"voxceleb1": corpus}, {}, folder, root=folder.parent / "loose", size=4000)


def read_pack(folder: Path) -> None:
    problems = []
    try:
        corpus = shards.load_corpus(folder, "voxceleb1")
        if corpus is not None:
            dict(corpus.trials)
            audio.durations([u for those in corpus.splits.values() for u in those])
    except BenchmarkError as error:
        problems.append(str(error))
    for read in (shards.verify, lambda f: shards.unpack(f, f.parent / "out")):
        try:
            problems += read(folder) or [] if read is shards.verify else [str(read(folder))][:0]  # type: ignore[operator,misc]
        except BenchmarkError as error:
            problems.append(str(error))
    if problems:
        raise BenchmarkError("\n".join(problems))


# ------------------------------------------------------------------------------------------------------------- reports


def write_results(task: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from made_studies import write_cell

        for regime in ("frozen", "finetuned"):
            write_cell(folder, task, regime, "all", 0)
        for path in folder.rglob("cell.json"):
            path.unlink()

    return write


def read_report(folder: Path) -> None:
    from benchmark.report.page import make

    make([folder], replicates=20)


def read_results(folder: Path) -> None:
    from benchmark.report.collect import gather
    from benchmark.report.explained import read

    gathered = gather([folder])
    results.markdown(results.collect([folder]))
    results.rows([folder])
    for run in gathered.runs.values():
        results.table(run.result)
        run.about()
    every([path.parent for path in sorted(folder.rglob("result.json"))], lambda path: read([path]))


# --------------------------------------------------------------------------------------------------------------- audio

FORMATS = {
    "wav": ("WAV", "PCM_16"), "float.wav": ("WAV", "FLOAT"), "adpcm.wav": ("WAV", "IMA_ADPCM"), "flac": ("FLAC", None),
    "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", None), "aiff": ("AIFF", None), "au": ("AU", None),
    "caf": ("CAF", None), "w64": ("W64", None), "rf64": ("RF64", None), "sph": ("NIST", None), "voc": ("VOC", None),
    "avr": ("AVR", None), "svx": ("SVX", None), "sf": ("IRCAM", None), "paf": ("PAF", None), "htk": ("HTK", None),
}  # fmt: skip


def write_audio(*endings: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        samples = (np.random.default_rng(0).standard_normal(16000) * 0.1).astype(np.float32)
        for ending in endings:
            kind, subtype = FORMATS[ending]
            soundfile.write(folder / f"a.{ending}", samples, 16000, format=kind, subtype=subtype)
        if "mp3" in endings:
            (folder / "b.mp3").write_bytes((folder / "a.mp3").read_bytes() * 2)

    return write


def read_audio(folder: Path) -> None:
    headers._of.cache_clear()
    paths = sorted(folder.glob("?.*"))
    headers.read(map(str, paths))

    def read(path: Path) -> None:
        audio.load(Utterance("u", str(path)), 16000)
        audio.load(Utterance("u", str(path), 0.2, 0.1), 16000)

    every(paths, read)


# --------------------------------------------------------------------------------------------------------- checkpoints


def write_run_checkpoint(folder: Path) -> None:
    from benchmark.engine import checkpoint

    state = {
        "format": checkpoint.FORMAT,
        "step": 3,
        "head": {"weight": torch.zeros(3, 4)},
        "optimizer": {"state": [1, 2], "lr": 0.1},
        "inventory": {},
    }
    torch.save(state, folder / "best.pt")


def read_run_checkpoint(folder: Path) -> None:
    from benchmark.engine import checkpoint

    checkpoint.read(folder / "best.pt", lambda state: None)


def write_features(folder: Path) -> None:
    from benchmark.engine import feature_shards

    feature_shards.write(folder, {"layer_0": torch.zeros(4, 3)}, {"k1": (0, 3), "k2": (3, 1)})
    feature_shards.describe(folder, {"upstream": "x"})


def read_features(folder: Path) -> None:
    from benchmark.engine import feature_shards

    list(feature_shards.stores(folder))
    for path in folder.glob("*.safetensors"):
        shard = feature_shards.Shard(path)
        for name in shard.names:
            shard[name]
        shard.check()


def write_lists(folder: Path) -> None:
    """The lists and transcripts of corpora, each with a little audio."""
    for speaker in ("id10001", "id10002", "id10003"):
        for split in ("dev", "test"):
            wav(folder / f"VoxCeleb1/{split}/wav/{speaker if split == 'dev' else speaker + 't'}/v/00001.wav")
    top = folder / "VoxCeleb1"
    top.joinpath("veri_test2.txt").write_text("1 id10001t/v/00001.wav id10002t/v/00001.wav\n0 id10001t/v/00001.wav "
                                              "id10003t/v/00001.wav\n")  # fmt: skip
    top.joinpath("vox1_meta.csv").write_text("VoxCeleb1 ID\tName\tGender\tNationality\tSet\nid10001\tA\tm\tX\tdev\n")
    top.joinpath("iden_split.txt").write_text("1 id10001/v/00001.wav\n2 id10002/v/00001.wav\n3 id10003/v/00001.wav\n")
    chapter = folder / "LibriSpeech/dev-clean/84/121"
    wav(chapter / "84-121-0000.flac")
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n")
    (folder / "LibriSpeech/SPEAKERS.TXT").write_text(
        "; ID |SEX| SUBSET |MINUTES| NAME\n84 | F | dev-clean | 8.02 | X\n"
    )


def read_lists(folder: Path) -> None:
    problems = []
    for name in ("voxceleb1", "voxceleb1_identification", "librispeech"):
        try:
            dict(registry.corpora.get(name).load()(folder).trials)
        except BenchmarkError as error:
            problems.append(str(error))
    if problems:
        raise BenchmarkError("\n".join(problems))


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("manifests", write_manifests, read_manifests),
        Reader("trial lists", write_trial_lists, read_trial_lists),
        Reader("kaldi", write_kaldi, importer("kaldi"), "[!.r]*"),
        Reader("lhotse", write_lhotse, importer("lhotse", "cuts.jsonl"), "cuts.jsonl"),
        Reader("datasets", write_datasets, importer("datasets", "data"), "*.[ja]*", costly=4),
        Reader("lists of corpora", write_lists, read_lists, "*.[tcT]*"),
        Reader("configurations", write_configurations, read_configurations, costly=2),
        Reader("recipes", write_recipe, read_recipe, costly=5),
        Reader("protocol cards", write_card, read_card),
        Reader("archives", write_archives, read_archives, costly=2),
        Reader("packs", write_pack, read_pack, "[!.]*"),
        Reader("results: verification", write_results("verify"), read_results, costly=2),
        Reader("results: classes", write_results("languages"), read_results, costly=2),
        Reader("results: words", write_results("words"), read_results, costly=2),
        Reader("report", write_results("verify"), read_report, costly=20),
        Reader("audio: wav", write_audio("wav", "float.wav", "adpcm.wav"), read_audio),
        Reader("audio: flac", write_audio("flac"), read_audio),
        Reader("audio: ogg", write_audio("ogg", "opus"), read_audio),
        Reader("audio: mp3", write_audio("mp3"), read_audio),
        Reader("audio: others", write_audio("aiff", "au", "caf", "w64", "rf64", "sph"), read_audio),
        Reader("audio: rare", write_audio("voc", "avr", "svx", "sf", "paf", "htk"), read_audio),
        Reader("checkpoints: runs", write_run_checkpoint, read_run_checkpoint),
        *damaged_checkpoints.READERS.values(),
        Reader("feature stores", write_features, read_features),
    )
}
