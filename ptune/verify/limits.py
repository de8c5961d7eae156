"""What each hop is held to. Why these figures: docs/architecture.md."""

MAX_ABS_LOGPROB = 1e-3  # against torch in float32, in nats
MAX_ABS_VECTOR = 2e-5  # of a number of a vector of length 1, in float32
MAX_ABS_SAME_WEIGHTS = 5e-4  # of a decoder's graph that multiplies the same weights in another order
SLACK = 0.5  # share of these that the hops after the graph may add
LIVENESS = 0.01  # relative L2
# What trained against float32 on the weights that it stands for; two may add up. SmolLM2: nf4 .0007, int8 .021, bfloat16 .0014
LIVE_KERNEL_KL = {"nf4": 0.002, "int8": 0.03, "bfloat16": 0.003}
PROBES = 16  # held-out prompts
POSITIONS = 32  # compared in each prompt
INT8_SAME = 0.99  # share of an encoder's answers that its int8 graph must give as well
INT8_COSINE = 0.99  # of a vector and its int8 graph's: what still counts as the same
INT8_SPREAD = 0.1  # of the standard deviation of a regression's numbers: what still counts as the same
PROFILE_KL, PROFILE_TOP1 = 0.01, 0.95  # of a decoder's other graphs against its fp32 one
# Of an int4 graph: whose source was in 4 bits already, so that only activations are rounded; and of any other. There llama.cpp's
# Q4_K_M loses .031 on Llama 3 8B by llama.cpp's own table, and small models lose more than large ones.
INT4_KEPT_KL, INT4_KEPT_TOP1 = 0.005, 0.94
INT4_KL, INT4_TOP1 = 0.05, 0.88
HELD_TOKENS = 10_000  # at which they are compared
