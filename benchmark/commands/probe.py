"""What ``wavbench doctor`` runs in a process of its own, as a file: it imports what may fail or crash.

Prints lines of JSON, one before each attempt, so that the last one tells where it died.
"""

from __future__ import annotations

import importlib
import io
import json
import sys


def probe(root: str, modules: list[str], plugins: list[str] | None) -> None:
    """Import modules, look at devices and codecs, load the names that plug-ins bring.

    Args:
        root: wavbench's folder.
        modules: to import.
        plugins: plug-in files; ``None``: no names are looked at.
    """
    sys.path.append(root)

    def say(**values: object) -> None:
        print("\n" + json.dumps(values), flush=True)

    def reason(error: BaseException) -> str:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    loaded = {}
    for name in modules:
        say(begun=name)
        try:
            loaded[name] = importlib.import_module(name)
            say(done=name)
        except BaseException as error:  # whatever a broken package raises
            say(done=name, error=reason(error))
    if "torch" in loaded:
        say(begun="devices")
        try:
            cuda = loaded["torch"].cuda
            devices = [cuda.get_device_properties(number) for number in range(cuda.device_count())]
            names = [f"{device.name}, {device.total_memory / 1e9:.1f} GB" for device in devices]
            available = cuda.is_available()
            if available:
                loaded["torch"].zeros(1, device="cuda")
            say(done="devices", value=names if available else [], built=loaded["torch"].version.cuda)
        except BaseException as error:
            say(done="devices", error=reason(error))
    if "soundfile" in loaded and "numpy" in loaded:
        soundfile = loaded["soundfile"]
        say(version=getattr(soundfile, "__libsndfile_version__", None))
        kinds = {
            "wav": ("WAV", None), "flac": ("FLAC", None), "mp3": ("MP3", None), "ogg vorbis": ("OGG", "VORBIS"),
            "ogg opus": ("OGG", "OPUS"), "nist sphere": ("NIST", None), "aiff": ("AIFF", None), "au": ("AU", None),
            "caf": ("CAF", None), "alac": ("CAF", "ALAC_16"), "w64": ("W64", None), "rf64": ("RF64", None),
            "gsm": ("WAV", "GSM610"), "voc": ("VOC", None),
        }  # fmt: skip
        for kind, (container, subtype) in kinds.items():
            say(begun=f"libsndfile with {kind}")
            try:
                file = io.BytesIO()
                silence = loaded["numpy"].zeros(16000, "float32")
                soundfile.write(file, silence, 16000, format=container, subtype=subtype)
                file.seek(0)
                say(codec=kind, reads=len(soundfile.read(file)[0]) > 0)
            except BaseException:
                say(codec=kind, reads=False)
    if plugins is not None:
        say(begun="names")
        try:
            from benchmark import registry

            for plugin in plugins:
                try:
                    registry.load_plugin(plugin)
                except BaseException as error:
                    say(broken=f"plug-in {plugin}", reason=reason(error))
            for table in (value for value in vars(registry).values() if isinstance(value, registry.Registry)):
                for entry in table:
                    say(begun=f"{table.kind} '{entry.name}' (from {entry.origin})")
                    try:
                        if entry.problem is not None or entry.origin != "built in":
                            entry.load()
                    except BaseException as error:
                        say(broken=f"{table.kind} '{entry.name}' (from {entry.origin})", reason=reason(error))
                say(counted=f"{table.kind} names", number=len(list(table)))
        except BaseException as error:
            say(broken="the table of names", reason=reason(error))
    say(done="all")


if __name__ == "__main__":
    probe(*json.loads(sys.argv[1]))
