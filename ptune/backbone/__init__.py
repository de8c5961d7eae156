"""Pretrained models: locating, loading, quantising and identifying them."""

import logging

# bitsandbytes warns on import that it lacks an optional kernel that ptune does not use (see `quantize`), and at every call
# that int8 inputs are cast to float16.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)
