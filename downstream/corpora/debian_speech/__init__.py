"""Human speech out of Debian's packages: what anybody can fetch, unpack and decode in minutes.

    python -m downstream.corpora.debian_speech data/real

writes ``data/real/DebianSpeech``: 16 kHz FLAC files, a manifest a source, and ``SOURCES.tsv`` with hours, speakers and
licences. The packages are pinned by hash; nothing of them is run. The recordings are their owners': see the licences.
``docs/real-speech.md`` says what they can bear.
"""
