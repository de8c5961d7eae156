"""Pretrained models: where they are, how they are loaded and quantised, and which weights exactly they hold."""

import logging

# bitsandbytes warns, on import, that it lacks an optional kernel which ptune has no use for (see `quantize`), and, at
# every call, that int8 inputs are cast to float16.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)
