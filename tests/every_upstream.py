"""Every name of ``wavbench list``, loaded without network from a file of its own format at the place where it is looked
for, and checked.

    python tests/every_upstream.py [NAME …]     # check-upstream over all names: the table in docs/upstreams.md

Published models are too large for this: their cards are scaled down, and everything else is as it is.
``unit/test_every_name.py`` uses this.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import upstream_files
import whisper_files

from benchmark.interfaces import Upstream
from benchmark.registry import upstreams
from upstream import download, hub, load_upstream
from upstream.cards import Card
from upstream.wav2vec2.cards import read_cards
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model
from upstream.whisper.cards import read_cards as read_whisper_cards

SMALL: dict[str, Any] = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "conv_pos": 15,
                         "encoder_attention_heads": 16, "depthwise_conv_kernel_size": 3}  # fmt: skip
REST: dict[str, Any] = {"conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2",
                        "conv_pos_groups": 4}  # fmt: skip
"""What cards do not say."""
SMALL_WHISPER = {"mels": 80, "dim": 32, "layers": 3, "heads": 4, "ffn": 128, "positions": whisper_files.POSITIONS}
SOURCES = {"s3prl": "fbank", "xares": "{root}/my_encoder.py:MyEncoder"}
"""Adapters of other libraries' encoders -> what they are given."""
NEED_A_FILE = {"hf": "wav2vec2", "wav2vec2_local": "wav2vec2", "hubert_local": "hubert", "wavlm_local": "wavlm",
               "data2vec_local": "data2vec", "data2vec2_local": "data2vec2", "w2v_bert_local": "w2v_bert",
               "whisper_local": "whisper", "bestrq": "bestrq", "hf_auto": "transformers"}  # fmt: skip
"""Names for files of one's own -> the family of the file."""
BESTRQ = Path(__file__).parent / "fixtures" / "bestrq" / "run"
XARES = """\
import torch


class MyEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.sampling_rate, self.hop_size_in_ms = 16000, 40
        self.convolution = torch.nn.Conv1d(1, 64, kernel_size=800, stride=640)

    def forward(self, audio, audio_attention_mask=None):
        return self.convolution(audio[:, None]).transpose(1, 2), None
"""

CARDS = read_cards()
NAMES = [entry.name for entry in upstreams if entry.origin == "built in"]


def scaled(card: Card) -> Card:
    """The same in all but sizes."""
    return replace(card, architecture={name: SMALL.get(name, value) for name, value in card.architecture.items()})


def make(card: Card) -> Wav2Vec2Model:
    """The model of a card that was scaled down."""
    torch.manual_seed(0)
    said = {name: value for name, value in card.architecture.items() if value is not None}
    kind = {"pos_enc_type": "rel_pos"} if said.get("layer_type") == "conformer" else {}
    deep = {"pos_conv_depth": 2, "extractor_mode": "layer_norm", "always_project": True}
    kind |= deep if str(said.get("family")).startswith("data2vec") else {}
    config = {**SMALL, **REST, **kind, **said}
    if config.get("relative_position_embedding") is None and said.get("family") == "wavlm":
        config |= {"relative_position_embedding": True, "gru_rel_pos": True, "max_distance": 800}
    return Wav2Vec2Model(Wav2Vec2Config(**config))


def write(card: Card, path: Path) -> str:
    """Write the file that a card is of, in the format in which it is published, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if card.family == "whisper":
        torch.save(whisper_files.openai_state(whisper_files.whisper_model()), path)
        return "OpenAI"
    if card.name.startswith("omnilingual"):
        upstream_files.save_fairseq2(make(card), path)
        return "fairseq2"
    fine_tuned = card.objective.endswith("then CTC")
    upstream_files.save(make(card), path, fine_tuned=fine_tuned)
    kind = "fairseq, fine-tuned" if fine_tuned else "fairseq"
    return {"w2v_bert": "Hugging Face", "wavlm": "WavLM"}.get(str(card.architecture.get("family")), kind)


def published_at(card: Card) -> Path:
    """Where its file is looked for."""
    if (name := hub.name_of(card.url)) is None:
        return download.place(str(card.url), card.filename)
    folder = hub._own() / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return folder / "snapshots" / ("0" * 40)


@contextlib.contextmanager
def offline(root: Path) -> Iterator[dict[str, Card]]:
    """All cards with an architecture, scaled down; no network, and an empty cache in ``root``."""

    def nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("no network")

    own = {name: card if card.file else scaled(card) for name, card in CARDS.items()}
    whisper = {
        name: replace(card, architecture=SMALL_WHISPER if card.url else {}, sha256=None)
        for name, card in read_whisper_cards().items()
    }
    environment = {"BENCHMARK_CACHE": str(root / "cache"), "HF_HOME": str(root / "hub"), "HF_HUB_CACHE": ""}
    with (
        mock.patch.object(urllib.request, "urlopen", nothing),
        mock.patch.dict(os.environ, environment),
        mock.patch("upstream.wav2vec2.read_cards", return_value=own),
        mock.patch("upstream.whisper.read_cards", return_value=whisper),
    ):
        yield own | whisper


def save_unispeech(folder: Path) -> Path:
    """A family that is not read natively, small, as transformers writes it."""
    import transformers

    torch.manual_seed(0)
    config = transformers.UniSpeechConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embedding_groups=4, num_conv_pos_embeddings=15,
    )  # fmt: skip
    transformers.UniSpeechModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def own_file(name: str, cards: Mapping[str, Card], path: Path, other: str | None = None) -> tuple[Path, str]:
    """A file for a name that needs one, and its format; ``hf`` reads ``other`` families, Whisper other formats."""
    family = NEED_A_FILE[name] if other is None else other
    if family == "bestrq":
        return BESTRQ, "SpeechBrain"
    if family == "transformers":
        return save_unispeech(path), "transformers"
    if family == "ctranslate2":
        return whisper_files.save_ctranslate2(whisper_files.whisper_model(), path), "CTranslate2"
    if family == "folder":
        return whisper_files.save_folder(whisper_files.whisper_model(), path), "Hugging Face"
    names = {"whisper": "whisper_tiny", "w2v_bert": "w2v_bert_2", "conformer": "wav2vec2_conformer_relpos"}
    card = cards[names.get(family, f"{family}_local")]
    if name == "hf":
        return upstream_files.save_folder(make(card), path), "Hugging Face"
    return path, write(card, path)


def load(
    name: str, cards: Mapping[str, Card], root: Path, other: str | None = None, **options: Any
) -> tuple[Upstream, str]:
    """The upstream of a name, and the format of what it was read from."""
    card = cards.get(name)
    if name in SOURCES:
        root.mkdir(parents=True, exist_ok=True)
        (root / "my_encoder.py").write_text(XARES)
        return load_upstream(name, source=SOURCES[name].format(root=root), **options), "code"
    if name in NEED_A_FILE:
        path, kind = own_file(name, cards, root / name, other)
        return load_upstream(name, checkpoint=path, **options), kind
    if card is None or card.url is None:
        return load_upstream(name, **options), "bundled" if card or name == "bestrq_tiny" else "none"
    kind = write(card, published_at(card))
    return load_upstream(name, **options), kind


# -------------------------------------------------------------------------------------------------------------- main


@dataclass
class Checked:
    """Names whose files, scaled down, are the same model in the same format: one is checked for all."""

    kind: str
    frame: float
    """Milliseconds."""
    kept: int
    skipped: int
    wrong: dict[str, str]
    """Check -> what is wrong."""
    names: list[str] = field(default_factory=list)


VARIANTS = {
    "random": {"random_weights": True}, "valid": {"length": "valid"}, "stream": {"stream": True},
    **{other: {"other": other} for other in ("hubert", "wavlm", "data2vec", "conformer", "folder", "ctranslate2")},
}  # fmt: skip
"""Words after a name: options, and other files."""
EVERY = [
    *NAMES, "wav2vec2_tiny random", "bestrq_tiny random", "whisper_local valid",
    *(f"whisper_local {kind}{valid}" for kind in ("folder", "ctranslate2") for valid in ("", " valid")),
    *(f"hf {family}" for family in ("hubert", "wavlm", "data2vec", "conformer")),
    *(f"{name} random" for name in NEED_A_FILE if name not in ("hf", "hf_auto")),
    *(f"{name} stream" for name in (*NEED_A_FILE, "hf conformer", "wavlm_large", "omnilingual_7b")
      if name not in ("hf_auto", "bestrq", "whisper_local")),
]  # fmt: skip


def check(root: Path, names: Sequence[str] = EVERY) -> list[Checked]:
    """``check-upstream`` of names."""
    from benchmark.engine.conformance import examine

    found: dict[Any, Checked] = {}
    with offline(root) as cards:
        for name in names:
            base, *words = name.split()
            options: dict[str, Any] = {}
            for word in words:
                options |= VARIANTS[word]
            torch.manual_seed(0)
            model, kind = load(base, cards, root / "own" / name.replace(" ", "_"), **options)
            key = (kind, *words, type(model), repr(getattr(model, "config", name)))
            if key not in found:
                before = {key: value.clone() for key, value in model.state_dict().items()}
                findings = examine(model)
                wrong = {f.check.name: "; ".join(f.details) for f in findings if f.outcome == "wrong"}
                same = all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
                if not same and "stream" not in words:  # there each pass leaves other weights
                    wrong["state"] = "the checks changed the model"  # BatchNorm counts in training mode
                count = [sum(f.outcome == outcome for f in findings) for outcome in ("ok", "skipped")]
                found[key] = Checked(kind, 1000 * model.frame_shift / model.sample_rate, *count, wrong)
            found[key].names.append(name)
    return list(found.values())


def main() -> int:
    """A row of a table for each model; exit status 1 where a promise is broken."""
    with tempfile.TemporaryDirectory() as folder:
        rows = check(Path(folder), sys.argv[1:] or EVERY)
    print("| read from | names | frame, ms | promises kept | broken | not checked |\n|---|---|---|---|---|---|")
    for row in rows:
        names = ", ".join(f"`{name}`" for name in row.names)
        broken = "; ".join(f"{name}: {what}" for name, what in row.wrong.items()) or "0"
        print(f"| {row.kind} | {names} | {row.frame:.4g} | {row.kept} | {broken} | {row.skipped} |")
    print(f"\n{sum(len(row.names) for row in rows)} names, {len(rows)} models", file=sys.stderr)
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
