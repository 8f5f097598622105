"""Outputs and gradients of our heads equal those of s3prl's own modules with the same parameters.

Errors are relative to the largest value of a tensor; gradients are those of every parameter and of the input. In
float64 they agree to TOLERANCE[float64], in float32 the order of summation shows. Where s3prl has a defect, ours
differs on purpose: each of these differences is a test in the second part of this file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import huggingface_hub
import pytest
import s3prl_support as s3prl
import torch
import torch.nn.functional as F
from s3prl_support import as_ours, error, gradients, largest_error
from torch import Tensor, nn

from benchmark.engine.featurizer import WeightedSum
from benchmark.interfaces import HiddenStates
from benchmark.registry import load_upstream
from downstream.asr.decoding import greedy
from downstream.asr.heads import CTCHead, CTCHeadConfig
from downstream.asr.heads import make_head as make_ctc_head
from downstream.asr.specaugment import SpecAugmentConfig
from downstream.asr.text import ALPHABETS, BLANK, Alphabet
from downstream.classifier import Classifier
from downstream.embedders import ASP, EmbedderConfig
from downstream.losses import LOSSES, LossConfig
from downstream.pooling import AttentiveStatistics, mean_pooling, statistics_pooling
from downstream.sv.task import SpeakerEncoder

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
DIM, SIZE, POOLED, CLASSES = 12, 16, 24, 7
ALPHABET = Alphabet(ALPHABETS["librispeech"])
HEAD = EmbedderConfig("xvector", size=SIZE, pooled=POOLED)
SV_LOSSES = {  # s3prl's name -> ours, with the values of s3prl's configuration files
    "AMSoftmaxLoss": LossConfig("amsoftmax", scale=30.0, margin=0.4),
    "AAMSoftmaxLoss": LossConfig("aamsoftmax", scale=15.0, margin=0.3),
    "SoftmaxLoss": LossConfig("softmax"),
}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    with s3prl.precision(request.param):
        torch.manual_seed(0)
        yield request.param


def frames(*lengths: int, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Random features (batch, frame, dim), zero on padding, and their lengths."""
    drawn = [torch.randn(n, dim) for n in lengths]
    return nn.utils.rnn.pad_sequence(drawn, batch_first=True).requires_grad_(), torch.tensor(lengths)


def listed(features: Tensor, lengths: Tensor) -> list[Tensor]:
    """As s3prl's experts take features: a list of (frame, dim)."""
    return [feature[:n] for feature, n in zip(features, lengths, strict=True)]


def of(module: nn.Module, features: Tensor) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | {"input": features}


def differences(theirs: dict[str, Tensor], ours: dict[str, Tensor], names: dict[str, str]) -> float:
    """The largest error of our gradients; none of theirs may be all zeros, or nothing would be compared."""
    assert all(gradient.any() for gradient in theirs.values())
    return largest_error(ours, as_ours(theirs, names))


def twins(loss: str = "AMSoftmaxLoss") -> tuple[Any, SpeakerEncoder]:
    """s3prl's SV expert and our head, with the same parameters."""
    expert = s3prl.make_expert(s3prl.sv, s3prl.sv_config(SIZE, POOLED, loss), DIM, CLASSES)
    head = SpeakerEncoder(DIM, CLASSES, HEAD, SV_LOSSES[loss])
    head.load_state_dict(as_ours(dict(expert.named_parameters()), s3prl.XVECTOR_NAMES))
    return expert, head


def expert_loss(expert: nn.Module, features: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
    with s3prl.classes(CLASSES):
        loss: Tensor = expert(
            "train", listed(features, lengths), None, labels=targets.tolist(), records=s3prl.records()
        )
    return loss


def expert_embeddings(expert: nn.Module, features: Tensor, lengths: Tensor) -> Tensor:
    """(batch, size) of length 1, as s3prl compares them."""
    records = s3prl.records()
    with s3prl.classes(CLASSES):
        expert("test", listed(features, lengths), list(range(len(lengths))), records=records)
    return torch.stack([records[i] for i in range(len(lengths))])


def test_nothing_is_left_behind() -> None:
    """Importing s3prl and computing in float64 change nothing for the other tests of this process."""
    assert not any(isinstance(sys.modules.get(name), mock.Mock) for name in s3prl.STAND_INS)
    assert not any(hasattr(huggingface_hub, name) for name in s3prl.GONE_FROM_THE_HUB)
    with s3prl.precision(torch.float64):
        assert torch.ones(1).float().dtype == torch.float64
    assert torch.ones(1).dtype == torch.ones(1, dtype=torch.float64).float().dtype == torch.float32


# -- speaker verification -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(33, 33, 33, 33), (16,), (41,)], ids=str)
@pytest.mark.parametrize("loss", SV_LOSSES)
def test_xvector_and_loss(dtype: torch.dtype, loss: str, lengths: tuple[int, ...]) -> None:
    """The whole SV expert, on utterances alone and on a batch without padding."""
    expert, head = twins(loss)
    features, counts = frames(*lengths)
    targets = torch.tensor([4, 0, 6, 4])[: len(lengths)]
    theirs, ours = expert_loss(expert, features, counts, targets), head.loss(features, counts, targets)
    assert error(ours, theirs) < TOLERANCE[dtype]
    assert (
        differences(gradients(theirs, of(expert, features)), gradients(ours, of(head, features)), s3prl.XVECTOR_NAMES)
        < TOLERANCE[dtype]
    )
    embeddings = F.normalize(torch.stack(head.predict(features, counts)), dim=1)
    assert error(embeddings, expert_embeddings(expert, features, counts)) < TOLERANCE[dtype]


def test_xvector_in_a_ragged_batch(dtype: torch.dtype) -> None:
    """s3prl's newer modules, whose pooling stops at the last valid frame, in a batch with padding."""
    size = 512  # fixed there
    body = s3prl.s3prl_nn.SuperbXvector(DIM, aggregation_size=POOLED)
    theirs = nn.ModuleDict({"body": body, "objective": s3prl.s3prl_nn.amsoftmax(size, CLASSES, margin=0.4, scale=30)})
    names = {f"body.{name}": ours for name, ours in (s3prl.XVECTOR_NAMES | s3prl.PROJECTOR).items()}
    head = SpeakerEncoder(DIM, CLASSES, EmbedderConfig("xvector", size, POOLED), SV_LOSSES["AMSoftmaxLoss"])
    head.load_state_dict(as_ours(dict(theirs.named_parameters()), names))
    features, lengths = frames(40, 16, 29)
    targets = torch.tensor([3, 0, 6])
    (loss, _), ours = theirs["objective"](body(features, lengths), targets), head.loss(features, lengths, targets)
    assert error(ours, loss) < TOLERANCE[dtype]
    assert (
        differences(gradients(loss, of(theirs, features)), gradients(ours, of(head, features)), names)
        < TOLERANCE[dtype]
    )
    body.eval()
    assert error(torch.stack(head.predict(features, lengths)), body(features, lengths)) < TOLERANCE[dtype]


def test_attentive_statistics(dtype: torch.dtype) -> None:
    """``nn.AttentiveStatisticsPooling``, whose attention is as wide as the features and has no bias."""
    theirs = s3prl.s3prl_nn.pooling.AttentiveStatisticsPooling(SIZE).to(dtype)
    nn.init.normal_(theirs.attention)
    ours = AttentiveStatistics(SIZE, SIZE)
    ours.load_state_dict(
        {
            "hidden.weight": theirs.sap_linear.weight[:, :, None],
            "hidden.bias": theirs.sap_linear.bias,
            "score.weight": theirs.attention.T[:, :, None],
            "score.bias": torch.zeros(1),
        }
    )
    features, lengths = frames(30, 9, 17, dim=SIZE)
    expected, found = theirs(features, lengths), ours(features.transpose(1, 2), lengths)
    assert error(found, expected) < TOLERANCE[dtype]
    direction = torch.randn_like(expected)
    wanted = gradients((expected * direction).sum(), of(theirs, features))
    got = gradients((found * direction).sum(), of(ours, features))
    assert error(got["input"], wanted["input"]) < TOLERANCE[dtype]
    assert error(got["hidden.weight"][:, :, 0], wanted["sap_linear.weight"]) < TOLERANCE[dtype]
    assert error(got["score.weight"][:, :, 0].T, wanted["attention"]) < TOLERANCE[dtype]


def pooled(module: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    """By s3prl's modules, of both interfaces: with lengths, or one by one with a mask of zeros (all valid)."""
    if isinstance(module, s3prl.sv_model.SP | s3prl.sv_model.MP):
        return torch.cat([module(u[None], torch.zeros(1, len(u))) for u in listed(x, lengths)])
    found = module(x, lengths)
    vectors: Tensor = found[0] if isinstance(found, tuple) else found
    return vectors


@pytest.mark.parametrize("lengths", [(30, 2, 17), (5,)], ids=str)
@pytest.mark.parametrize("kind", ["SP", "TemporalStatisticsPooling", "MP", "nn.MeanPooling", "MeanPooling"])
def test_pooling(dtype: torch.dtype, kind: str, lengths: tuple[int, ...]) -> None:
    """Mean, and mean with deviation: of features far from 0, of some that never change and of some that are all 0."""
    theirs, pooling = {
        "SP": (s3prl.sv_model.SP(SIZE, SIZE), statistics_pooling),
        "TemporalStatisticsPooling": (s3prl.s3prl_nn.TemporalStatisticsPooling(SIZE), statistics_pooling),
        "MP": (s3prl.sv_model.MP(), mean_pooling),
        "nn.MeanPooling": (s3prl.s3prl_nn.MeanPooling(SIZE), mean_pooling),
        "MeanPooling": (s3prl.heads.MeanPooling(), mean_pooling),
    }[kind]
    x = frames(*lengths, dim=SIZE)[0].detach() * 3 + 20
    x[:, :, 2], x[:, :, 3] = 7.0, 0.0
    x, counts = x.requires_grad_(), torch.tensor(lengths)
    expected = pooled(theirs, x, counts)
    found = pooling(x.transpose(1, 2), counts)
    assert error(found, expected) < TOLERANCE[dtype]
    direction = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad((expected * direction).sum(), x)
    (got,) = torch.autograd.grad((found * direction).sum(), x)
    assert error(got, wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", [*SV_LOSSES, "amsoftmax"])
def test_losses(dtype: torch.dtype, kind: str) -> None:
    """Embeddings at all angles from their class, also where AAM-softmax no longer follows cos(θ + m) (θ > π - m)."""
    name = "AMSoftmaxLoss" if kind == "amsoftmax" else kind
    values: dict[str, Any] = s3prl.sv_config(SIZE, POOLED)["modelrc"]["LossConfig"][name]
    if kind == "amsoftmax":
        theirs = s3prl.s3prl_nn.amsoftmax(SIZE, CLASSES, margin=values["m"], scale=values["s"])
    else:
        theirs = getattr(s3prl.sv_model, name)(hidden_dim=SIZE, speaker_num=CLASSES, **values).to(dtype)
    ours = LOSSES[SV_LOSSES[name].name](SIZE, CLASSES, SV_LOSSES[name])

    def translated(of_theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        named = as_ours({f"objective.{key}": value for key, value in of_theirs.items() if key != "input"}, {})
        return {key.removeprefix("objective."): value for key, value in named.items()}

    ours.load_state_dict(translated(dict(theirs.named_parameters())))
    targets = torch.arange(21) % CLASSES
    embeddings = 5 * torch.randn(21, SIZE)
    if kind != "SoftmaxLoss":
        own = F.normalize(dict(ours.named_parameters())["W"].detach(), dim=0).T[targets]
        across = F.normalize(embeddings - (embeddings * own).sum(1, keepdim=True) * own, dim=1)
        angles = torch.linspace(0.05, 3.1, 21)[:, None]
        embeddings = 5 * (angles.cos() * own + angles.sin() * across)
        assert (angles > torch.pi - 0.3).any()
    embeddings.requires_grad_()
    expected, found = theirs(embeddings, targets), ours(embeddings, targets)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert error(found, expected) < TOLERANCE[dtype]
    wanted, got = gradients(expected, of(theirs, embeddings)), gradients(found, of(ours, embeddings))
    assert largest_error(got, translated(wanted) | {"input": wanted["input"]}) < TOLERANCE[dtype]


# -- speaker identification -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(33, 5, 1, 20), (1,), (41,)], ids=str)
@pytest.mark.parametrize("newer", [False, True], ids=["voxceleb1 expert", "nn.MeanPoolingLinear"])
def test_sid(dtype: torch.dtype, newer: bool, lengths: tuple[int, ...]) -> None:
    """Projector, mean over the valid frames, linear, cross-entropy; in a batch with padding, too."""
    theirs: nn.Module
    if newer:
        theirs, names = s3prl.s3prl_nn.MeanPoolingLinear(DIM, CLASSES, hidden_size=SIZE), s3prl.SID_NAMES
    else:
        theirs = s3prl.make_expert(s3prl.sid, s3prl.sid_config(SIZE), DIM, CLASSES)
        names = s3prl.SID_NAMES | s3prl.PROJECTOR
    head = Classifier(DIM, CLASSES, EmbedderConfig("mean", size=SIZE), LossConfig("softmax"))
    head.load_state_dict(as_ours(dict(theirs.named_parameters()), names))
    features, counts = frames(*lengths)
    targets = torch.tensor([4, 0, 6, 4])[: len(lengths)]
    records = s3prl.records()
    if newer:
        logits = theirs(features, counts)
        loss = F.cross_entropy(logits, targets)
        assert error(torch.stack(head.predict(features, counts)), logits.log_softmax(1)) < TOLERANCE[dtype]
    else:
        with s3prl.classes(CLASSES):
            loss = theirs("train", listed(features, counts), targets.tolist(), ["a"] * len(lengths), records)
        ours_right = torch.stack(head.predict(features, counts)).argmax(1) == targets
        assert ours_right.tolist() == records["acc"]
    ours = head.loss(features, counts, targets)
    assert error(ours, loss) < TOLERANCE[dtype]
    assert (
        differences(gradients(loss, of(theirs, features)), gradients(ours, of(head, features)), names)
        < TOLERANCE[dtype]
    )


# -- speech recognition ---------------------------------------------------------------------------------------------


def ctc_twins(folder: Path) -> tuple[Any, CTCHead]:
    """s3prl's ASR expert and our BiLSTM, with the same parameters; dropout is on until they are set to ``eval``."""
    expert = s3prl.make_expert(s3prl.asr, s3prl.asr_config(SIZE, folder), DIM)
    head = make_ctc_head(
        DIM, len(ALPHABET.symbols), CTCHeadConfig(size=SIZE, hidden=SIZE), SpecAugmentConfig(enabled=False)
    )
    head.load_state_dict(as_ours(dict(expert.named_parameters()), s3prl.ASR_NAMES))
    return expert, head


def labels(*texts: str) -> tuple[list[list[int]], tuple[Tensor, Tensor]]:
    """The same labels, as s3prl takes them and as our head does."""
    encoded = [ALPHABET.encode(text) for text in texts]
    padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in encoded], batch_first=True)
    return encoded, (padded, torch.tensor([len(row) for row in encoded]))


TEXTS = ("A LONG DAY", "NO", "THIS TEXT HAS MORE LETTERS THAN FRAMES", "IT'S ALL")


def test_alphabet(tmp_path: Path) -> None:
    """The same symbols at the same places, and the same blank."""
    expert = s3prl.make_expert(s3prl.asr, s3prl.asr_config(SIZE, tmp_path), DIM)
    assert tuple(expert.dictionary.symbols) == ALPHABET.symbols
    assert expert.blank == BLANK


@pytest.mark.parametrize("lengths", [(31, 12, 9, 40), (30,), (12, 40, 2, 30)], ids=str)
def test_bilstm_ctc(dtype: torch.dtype, tmp_path: Path, lengths: tuple[int, ...]) -> None:
    """Projection, BiLSTMs and CTC; the third text fits no alignment and counts as 0 (``zero_infinity``)."""
    expert, head = ctc_twins(tmp_path)
    expert.eval()
    head.eval()
    features, counts = frames(*lengths)
    plain, targets = labels(*TEXTS[: len(lengths)])
    expected = expert("train", listed(features, counts), plain, list("abcd"), s3prl.records())
    found = head.loss(features, counts, targets)
    assert error(found, expected) < TOLERANCE[dtype]
    names = s3prl.ASR_NAMES
    assert (
        differences(gradients(expected, of(expert, features)), gradients(found, of(head, features)), names)
        < TOLERANCE[dtype]
    )
    log_posteriors, _ = expert._get_log_probs(listed(features, counts))
    for theirs, ours, n in zip(log_posteriors, head.predict(features, counts), lengths, strict=True):
        assert error(ours, theirs[:n]) < TOLERANCE[dtype]


def test_bilstm_dropout(dtype: torch.dtype, tmp_path: Path) -> None:
    """In training, from the same generator state, the same dropout at the same places."""
    expert, head = ctc_twins(tmp_path)
    features, counts = frames(31, 12, 40)
    plain, targets = labels("A LONG DAY", "NO", "IT'S ALL")
    torch.manual_seed(1)
    expected = expert("train", listed(features, counts), plain, list("abc"), s3prl.records())
    torch.manual_seed(1)
    found = head.loss(features, counts, targets)
    assert error(found, expected) < TOLERANCE[dtype]
    head.eval()
    assert error(head.loss(features, counts, targets), expected) > 1e-4


def test_greedy_decoding(tmp_path: Path) -> None:
    """The words of s3prl's ``_decode`` on random log posteriors in which blanks, repetitions and spaces are common."""
    expert, _ = ctc_twins(tmp_path)
    generator = torch.Generator().manual_seed(0)
    words = 0
    for _ in range(20):
        symbols = torch.randint(4, 12, (60,), generator=generator)  # 4: the space; no special symbols
        symbols[torch.rand(60, generator=generator) < 0.3] = BLANK
        log_posteriors = F.one_hot(symbols.repeat_interleave(2), len(ALPHABET.symbols)).float().log_softmax(1)
        _, (expected,) = expert._decode(log_posteriors[None], torch.tensor([120]))
        assert greedy(log_posteriors, ALPHABET).split() == expected
        words += len(expected)
    assert words > 100


# -- featurizer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("newer", [False, True], ids=["upstream.interfaces", "nn"])
def test_weighted_sum(dtype: torch.dtype, newer: bool, normalize: bool) -> None:
    """softmax(weights) over the states, whose scales differ as those of pre-norm models do; gradients of both."""
    states = [10**k * torch.randn(3, 20, DIM).requires_grad_() for k in range(4)]
    states = [state.detach().requires_grad_() for state in states]
    lengths = torch.tensor([20, 20, 20])
    if newer:
        facts = SimpleNamespace(hidden_sizes=[DIM] * 4, downsample_rates=[320] * 4, num_layers=4)
        theirs = s3prl.s3prl_nn.Featurizer(facts, normalize=normalize)
    else:
        upstream = s3prl.WrappedUpstream(lambda wavs, _: [torch.zeros(1, 50, DIM)] * 4, 320)
        theirs = s3prl.interfaces.Featurizer(upstream, upstream_device="cpu", normalize=normalize)
    ours = WeightedSum(4, normalize=normalize)
    assert not ours.weights.any()
    assert not theirs.weights.any()  # uniform to begin with
    for module in (ours, theirs):
        module.weights.data.copy_(torch.tensor([0.3, -1.0, 2.0, 0.5]))
    if newer:
        expected = theirs(states, [lengths] * 4)[0]
    else:
        expected = torch.stack(theirs([torch.zeros(6400)] * 3, {"hidden_states": states}))
    found = ours(HiddenStates(states, lengths))
    assert error(found, expected) < TOLERANCE[dtype]
    direction = torch.randn_like(expected)
    inputs = {f"state {k}": state for k, state in enumerate(states)}
    wanted = gradients((expected * direction).sum(), {"weights": theirs.weights, **inputs})
    got = gradients((found * direction).sum(), {"weights": ours.weights, **inputs})
    assert largest_error(got, wanted) < TOLERANCE[dtype]


# -- where s3prl has a defect, and ours does not --------------------------------------------------------------------


def test_differs_padded_frame_in_pooling(dtype: torch.dtype) -> None:
    """s3prl's SV pooling takes ``first_pad_index + 1`` frames, one of padding, in any batch with padding.

    So an utterance's embedding, and the loss, depend on the batch; evaluation hides it by batches of one. Ours is
    s3prl's result for the utterance alone. (s3prl.md, section 5; ``sv_voxceleb1/model.py``, MP and SP.)
    """
    expert, head = twins()
    features, lengths = frames(40, 17)
    features = (10 * features).detach()
    together = expert_embeddings(expert, features, lengths)
    alone = torch.cat(
        [expert_embeddings(expert, features[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths)]
    )
    ours = F.normalize(torch.stack(head.predict(features, lengths)), dim=1)
    assert error(ours, alone) < TOLERANCE[dtype]
    assert error(together[0], alone[0]) < TOLERANCE[dtype]  # the longest has no padding
    assert error(together[1], alone[1]) > 0.02
    one_more = F.normalize(torch.stack(head.predict(features, lengths + torch.tensor([0, 1]))), dim=1)
    assert error(one_more, together) < TOLERANCE[dtype]  # one frame of padding: that is the difference, all of it
    targets = torch.tensor([1, 5])
    theirs, loss = expert_loss(expert, features, lengths, targets), head.loss(features, lengths, targets)
    assert abs(theirs.item() - loss.item()) > 1e-3


def test_differs_attention_on_padding(dtype: torch.dtype) -> None:
    """s3prl's ``AttentivePooling`` (``downstream/model.py``) adds its mask of 0 and 1 to the logits, instead of -inf.

    So padding keeps a share of the attention, 1 / e of a valid frame's at the same logit. Ours gives it none.
    """
    theirs, ours = s3prl.heads.AttentivePooling(SIZE, "ReLU"), ASP(SIZE, EmbedderConfig("asp", SIZE, POOLED))
    features, lengths = frames(60, 20, dim=SIZE)
    features = (features + 2).detach()
    features[1, 20:] = 0
    short = features[1:, :20], lengths[1:]
    assert error(theirs(features, lengths)[0][1:], theirs(*short)[0]) > 0.1
    assert error(ours.embed(features, lengths)[1:], ours.embed(*short)) < TOLERANCE[dtype]


def test_differs_root_of_a_negative_number() -> None:
    """s3prl's SV ``ASP`` takes mean(x²) - mean(x)² + 1e-8, in float32 below 0 for features that hardly change: NaN."""
    torch.manual_seed(0)
    theirs = s3prl.sv_model.ASP(SIZE, SIZE)
    theirs.linear.weight.data.zero_()
    theirs.linear.bias.data.uniform_(10, 20)  # the same in all frames
    features, lengths = frames(50, dim=SIZE)
    assert theirs(features, torch.zeros(1, 50)).isnan().any()
    pooling = AttentiveStatistics(SIZE, SIZE)
    constant = theirs.linear(features).transpose(1, 2)
    deviation = pooling(constant, lengths)[0, SIZE:]
    assert deviation.isfinite().all()
    assert deviation.max() < 1e-4


@pytest.mark.filterwarnings("ignore:std")
def test_differs_deviation_of_one_frame(dtype: torch.dtype) -> None:
    """15 frames leave one after the TDNN: s3prl's deviation of it is NaN and so is the embedding. Ours is 0."""
    expert, head = twins()
    features, lengths = frames(15)
    assert expert_embeddings(expert, features, lengths).isnan().all()
    assert s3prl.s3prl_nn.TemporalStatisticsPooling(DIM)(features[:, :1], torch.ones(1).long()).isnan().any()
    pooled_statistics = statistics_pooling(features[:, :1].transpose(1, 2), torch.ones(1, dtype=torch.long))
    assert torch.equal(pooled_statistics, torch.cat([features[:, 0], torch.zeros(1, DIM)], dim=1))
    (embedding,) = head.predict(features, lengths)
    assert embedding.isfinite().all()
    assert embedding.any()


def test_differs_short_utterances() -> None:
    """s3prl's x-vector fails on fewer than 15 frames (0.3 s). Ours repeats them."""
    expert, head = twins()
    features, lengths = frames(14)
    with pytest.raises(RuntimeError):
        expert_embeddings(expert, features, lengths)
    (embedding,) = head.predict(features, lengths)
    repeated = torch.cat([features, features[:, :1]], dim=1)
    assert torch.equal(embedding, head.predict(repeated, lengths + 1)[0])


def test_differs_gradient_of_aamsoftmax_at_its_class() -> None:
    """sqrt(1 - cos²) has an infinite slope at a cosine of 1, where s3prl's AAM-softmax has NaN gradients; ours not."""
    weight = -torch.ones(CLASSES, SIZE)
    weight[0] = torch.eye(SIZE)[0]
    theirs: Any = s3prl.sv_model.AAMSoftmaxLoss(hidden_dim=SIZE, speaker_num=CLASSES)
    theirs.load_state_dict({"weight": weight})
    ours = LOSSES["aamsoftmax"](SIZE, CLASSES, SV_LOSSES["AAMSoftmaxLoss"])
    ours.load_state_dict({"W": weight.T})
    for loss in (theirs, ours):
        embedding = torch.eye(SIZE)[:1].requires_grad_()
        (gradient,) = torch.autograd.grad(loss(embedding, torch.tensor([0])), embedding)
        assert bool(gradient.isfinite().all()) == (loss is ours)


def test_differs_softmax_on_normalised_embeddings(dtype: torch.dtype) -> None:
    """``nn.softmax`` of s3prl's newer stack normalises embeddings first; ours follows SoftmaxLoss of the SV expert."""
    theirs, ours = s3prl.s3prl_nn.softmax(SIZE, CLASSES), LOSSES["softmax"](SIZE, CLASSES, LossConfig("softmax"))
    ours.load_state_dict(dict(theirs.named_parameters()))
    embeddings, targets = 3 * torch.randn(5, SIZE), torch.tensor([0, 6, 2, 2, 1])
    expected = theirs(embeddings, targets)[0]
    assert error(ours(F.normalize(embeddings, dim=1), targets), expected) < TOLERANCE[dtype]
    assert error(ours(embeddings, targets), expected) > 1e-2


def test_differs_rounded_lengths() -> None:
    """s3prl says that n samples make round(n / 320) frames; the convolutions make floor((n - 400) / 320) + 1.

    In a batch its shorter utterances get a frame that is not theirs, which they do not have alone; of 16,000 samples
    its newer stack makes 50 frames by repeating the last. Ours counts by the convolutions.
    """
    upstream = load_upstream("wav2vec2_tiny")
    lengths = torch.tensor([32000, 16000])
    wavs = torch.randn(2, 32000)
    wavs[1, 16000:] = 0
    with torch.inference_mode():
        batch, alone = upstream(wavs, lengths), upstream(wavs[1:, :16000], lengths[1:])
    assert batch.lengths.tolist() == [99, 49]
    wrapped = s3prl.WrappedUpstream(lambda w, n: upstream(w, n).states, 320)
    featurizer = s3prl.interfaces.Featurizer(wrapped, upstream_device="cpu")
    both = featurizer([wavs[0], wavs[1, :16000]], {"hidden_states": batch.states})
    (short,) = featurizer([wavs[1, :16000]], {"hidden_states": alone.states})
    assert [len(both[1]), len(short)] == [50, 49]
    torch.testing.assert_close(both[1][:49], short, rtol=1e-4, atol=1e-4)
    assert not both[1][49].any()  # ours is zero there; s3prl's own upstreams leave what attention masks

    newer = s3prl.s3prl_nn.S3PRLUpstream.__new__(s3prl.s3prl_nn.S3PRLUpstream)
    matched = newer._match_length(alone.states[-1], 50)
    assert torch.equal(matched[:, 49], matched[:, 48])
    share = torch.arange(16000, 320000, 37).div(320).round() != upstream.output_lengths(torch.arange(16000, 320000, 37))
    assert 0.7 < float(share.double().mean()) < 0.8


def test_differs_decoding_of_padding() -> None:
    """s3prl's newer CTC task decodes the padded frames of a batch, too; ours cuts them off, as the ASR expert does."""
    tokens = s3prl.tokenizer.CharacterTokenizer()
    task = s3prl.speech2text.Speech2TextCTCTask(s3prl.Same(), tokens)
    spoken = torch.tensor([tokens.encode(text)[:-1] for text in ("CAT", "DOG")])  # blank: 0
    logits = 9.0 * F.one_hot(spoken, len(tokens))
    longer = torch.cat([logits, 9.0 * F.one_hot(torch.tensor([tokens.encode("S")[:1]] * 2), len(tokens))], dim=1)
    lengths = torch.tensor([4, 3])  # the last frame of DOG is padding
    _, predictions, _ = task.predict(longer, lengths)
    assert predictions == ["CATS", "DOGS"]
    _, alone, _ = task.predict(logits[1:], lengths[1:])
    assert alone == ["DOG"]

    class Same(CTCHead):
        def logits(self, features: Tensor, lengths: Tensor) -> Tensor:
            return features

    alphabet = Alphabet(["<s>", "|", *"ACDGOST"])
    mine = 9.0 * F.one_hot(torch.tensor([[alphabet.index[c] for c in text] for text in ("CATS", "DOGS")]), 9)
    assert [greedy(row, alphabet) for row in Same(SpecAugmentConfig()).predict(mine, lengths)] == ["CATS", "DOG"]


def test_differs_labels(tmp_path: Path) -> None:
    """s3prl's ASR learns ``</s>`` at the end of each utterance, from fairseq's dictionary; ours ends with ``|``."""
    dictionary = s3prl.make_expert(s3prl.asr, s3prl.asr_config(SIZE, tmp_path), DIM).dictionary
    theirs = dictionary.encode_line(" ".join("SO IT|".replace(" ", "|")), line_tokenizer=str.split).tolist()
    assert theirs == [*ALPHABET.encode("SO IT"), dictionary.eos()]
