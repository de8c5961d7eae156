"""Cards by their names, and their memory. Torch-free."""

from __future__ import annotations

GPUS = {
    "GTX 1080 Ti": 11, "RTX 2060": 6, "RTX 2070": 8, "RTX 2080": 8, "RTX 2080 Ti": 11, "RTX 3050": 8, "RTX 3060": 12,
    "RTX 3060 Ti": 8, "RTX 3070": 8, "RTX 3080": 10, "RTX 3080 Ti": 12, "RTX 3090": 24, "RTX 3090 Ti": 24,
    "RTX 4060": 8, "RTX 4060 Ti": 16, "RTX 4070": 12, "RTX 4070 Ti": 12, "RTX 4070 Ti Super": 16, "RTX 4080": 16,
    "RTX 4090": 24, "RTX 5060 Ti": 16, "RTX 5070": 12, "RTX 5070 Ti": 16, "RTX 5080": 16, "RTX 5090": 32,
    "RTX A2000": 12, "RTX A4000": 16, "RTX A5000": 24, "RTX A6000": 48, "RTX 6000 Ada": 48, "RTX PRO 6000": 96,
    "T4": 16, "P100": 16, "V100": 16, "A10": 24, "A10G": 24, "A30": 24, "A40": 48, "L4": 24, "L40S": 48,
    "A100": 40, "A100 80GB": 80, "H100": 80, "H200": 141, "B200": 180,
}  # fmt: skip
"""Memory in GiB, as the makers state it. Programs cannot use 2 % of it (see `ptune.planning.hardware.usable`)."""
