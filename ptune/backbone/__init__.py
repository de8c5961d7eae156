"""Pretrained models: locating, loading, quantising and identifying them."""

import logging

# bitsandbytes warns at every call that int8 inputs are cast to float16.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
