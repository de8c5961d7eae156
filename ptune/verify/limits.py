"""What each hop is held to. Why these figures: docs/architecture.md."""

MAX_ABS_LOGPROB = 1e-3  # against torch in float32, in nats
LIVENESS = 0.01  # relative L2
LIVE_KERNEL_KL = {"nf4": 0.002, "int8": 0.03}  # bitsandbytes' kernel against float32 on the dequantised base
PROBES = 16  # held-out prompts
POSITIONS = 32  # compared in each prompt
