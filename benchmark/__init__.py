"""wavbench: what does fine-tuning wav2vec 2.0 buy, compared with keeping it frozen?"""

__version__ = "0.1.0"
