"""VoxCeleb2's dev set, to train on, with VoxCeleb1 to test on.

::

    <root>/VoxCeleb2/dev/{wav,aac}/id00012/21Uxsk56VDQ/00001.wav     5,994 speakers, 1,092,009 utterances
    <root>/VoxCeleb2/vox2_meta.csv                                   optional: the complete list of speakers
    <root>/VoxCeleb1/test/wav/…                                      with the trial lists, see voxceleb1.py
    <root>/VoxCeleb1/dev/wav/…                                       optional: needed for the lists E and H

The audio is published as ``.m4a`` under ``dev/aac``, which libsndfile does not read. It has to be converted to
``.wav``, next to the ``.m4a`` or in the same tree under ``dev/wav``; or in one archive in place of ``dev``,
``vox2_dev_wav.tar`` (or ``.zip``), with members ``…/id00012/21Uxsk56VDQ/00001.wav``. ``vox2`` is another name of the
folder. No speaker of VoxCeleb2's dev set is in VoxCeleb1.

Chung, Nagrani, Zisserman: VoxCeleb2: Deep speaker recognition, Interspeech 2018.
"""

from __future__ import annotations

import logging
from pathlib import Path

from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import Corpus, Utterance
from downstream.corpora import voxceleb1
from downstream.corpora.tree import DATA_ROOT, find_folder

log = logging.getLogger("wavbench")

FOLDER = "VoxCeleb2"
PAGE = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html"
_HELP = (
    f"Expected layout: <data root>/{FOLDER}/dev/{{wav,aac}}/<speaker>/<video>/<utterance>.wav, next to "
    f"<data root>/{voxceleb1.FOLDER} with its test set and trial lists. How to get the audio is described at {PAGE} "
    f"(VoxCeleb2) and {voxceleb1.PAGE} (VoxCeleb1). {DATA_ROOT.format('both')}"
)


def prepare(root: Path, *, training: bool = True) -> Corpus:
    """Read both trees.

    Only file names are read: audio is checked when it is decoded, a trial list when it is used.

    Args:
        root: the data root, the folder that holds ``VoxCeleb2`` and ``VoxCeleb1``.
        training: false: leave ``dev``, which is the training set, out; then ``VoxCeleb2`` is not looked at.

    Returns:
        splits ``dev`` (VoxCeleb2's), ``voxceleb1_test`` and, if available, ``voxceleb1_dev``, sorted by id; VoxCeleb1's
        trial lists, E and H only with ``voxceleb1_dev``. Ids and sessions are as in ``voxceleb1.py``.

    Raises:
        BenchmarkError: something is missing, misplaced, malformed, duplicated or still ``.m4a``; speakers are in both
            corpora.
    """
    root = Path(root)
    splits: dict[str, list[Utterance]] = {}
    if training:
        folder = find_folder(root, "VoxCeleb2", [FOLDER, "vox2"], _HELP, inside=["dev/aac", "aac", "vox2_*"])
        splits["dev"] = voxceleb1.read_split(folder / "dev", "dev", "VoxCeleb2", _HELP, below=("wav", "aac"))
    first = voxceleb1.voxceleb1_folder(root, _HELP)
    for split in voxceleb1.SPLITS:
        if split == "dev" and not voxceleb1.is_there(first / split):
            log.warning("%s does not exist, so the lists E and H cannot be scored", first / split)
            continue
        name = f"voxceleb1_{split}"
        splits[name] = voxceleb1.read_split(first / split, name, "VoxCeleb1", _HELP)
    speakers = {name: {str(utterance.speaker) for utterance in those} for name, those in splits.items()}
    if training:
        both = sorted(speakers["dev"] & set().union(*(those for name, those in speakers.items() if name != "dev")))
        if both:
            raise BenchmarkError(
                f"{len(both)} speakers are both under {folder} and under {first}: {shorten(both)}. VoxCeleb2's dev set "
                "shares no speaker with VoxCeleb1; one of the two trees holds folders of the other"
            )
        voxceleb1.warn_about_missing_speakers(folder / "vox2_meta.csv", ",", speakers["dev"], part="dev")
    tested = [utterance for name, those in splits.items() if name != "dev" for utterance in those]
    more = (*voxceleb1.OF_TEST, *(voxceleb1.OF_ALL if "voxceleb1_dev" in splits else ()))
    trials = voxceleb1.trial_lists(first, tested, more)
    return Corpus("voxceleb2", splits, trials)
