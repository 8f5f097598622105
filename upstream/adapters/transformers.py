"""Speech encoders of transformers that are not read natively: ``-u hf_auto -k FOLDER``, or ``-k owner/name``. Code in
a folder is not run.

States are those that transformers gives (``output_hidden_states``) of one utterance at a time, with the folder's own
preprocessor: not promised is that state 0 is the input of block 0 and the last one normalised, nor which frame hears
what. Of an encoder with a decoder, the encoder is taken.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import Any

from torch import Tensor

from benchmark.errors import BenchmarkError, shorten
from upstream.adapters import Adapter

LAYERDROP = ("layerdrop", "encoder_layerdrop")
"""Set to 0 unless they are among the options: some models then give fewer states while they are trained."""
_PLACE = ("_name_or_path", "_commit_hash", "transformers_version")
"""Of a configuration: where it was, not what it says."""
_UNUSED = ("masked_spec_embed",)
"""What only masking while training uses."""
NEEDED = "It runs a model of transformers: give its folder, or its name on the Hugging Face hub, with -k"


def missing(*, checkpoint: str | None = None) -> str | None:
    """What has to be given before this can be used; ``None``: it is."""
    return NEEDED if checkpoint is None else None


class Transformers(Adapter):
    """A model of transformers.

    Args:
        checkpoint: its folder, or its name on the hub, which transformers fetches.
        options: fields of its configuration, or for ``AutoModel.from_pretrained``.
    """

    def __init__(self, checkpoint: Any = None, **options: Any) -> None:
        if checkpoint is None:
            raise BenchmarkError(NEEDED)
        try:
            from transformers import AutoFeatureExtractor
        except ImportError as error:
            raise BenchmarkError("this needs transformers: pip install transformers") from error
        super().__init__(str(checkpoint), _find, **options)
        try:
            self.preprocessor = AutoFeatureExtractor.from_pretrained(str(checkpoint))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"{checkpoint} has no preprocessor of audio: {error}") from error
        self.sample_rate = int(self.preprocessor.sampling_rate)
        commit = getattr(self.encoder.config, "_commit_hash", None)
        self.info |= {"checkpoint": str(checkpoint), "revision": commit, "settings": self._settings(str(checkpoint))}
        self.measure(None)

    def _settings(self, source: str) -> str:
        """Digest of the configurations of the model and its preprocessor, as they are written, wherever they lie."""
        both = [
            type(self.encoder.config).get_config_dict(source)[0],
            self.preprocessor.get_feature_extractor_dict(source)[0],
        ]
        own = [{key: value for key, value in one.items() if key not in _PLACE} for one in both]
        return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()

    def states(self, wav: Tensor) -> list[Tensor]:
        """The states of one waveform."""
        inputs = self.preprocessor(wav.float().cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
        hidden = self.encoder(**inputs.to(wav.device), output_hidden_states=True).hidden_states
        return [state[0] for state in hidden]


def _find(source: str) -> Any:
    return partial(_load, source)


def _load(source: str, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(source)
    for name in LAYERDROP:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    for name in [name for name in options if hasattr(config, name)]:
        setattr(config, name, options.pop(name))
    model, loaded = AutoModel.from_pretrained(source, config=config, output_loading_info=True, **options)
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    own = {id(parameter) for parameter in encoder.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    if missing := sorted(name for name in names.intersection(loaded["missing_keys"]) if not name.endswith(_UNUSED)):
        raise BenchmarkError(
            f"{source} lacks {len(missing)} weights of {type(model).__name__}, which would be random: "
            f"{shorten(missing, most=3)}"
        )
    return encoder
