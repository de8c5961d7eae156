"""The limits of each hop. docs/architecture.md gives the reasons."""

MAX_ABS_LOGPROB = 1e-3  # against torch in float32, in nats
MAX_ABS_VECTOR = 2e-5  # for a component of a vector of length 1, in float32
MAX_ABS_SAME_WEIGHTS = 5e-4  # for a decoder's graph that multiplies the same weights in another order
SLACK = 0.5  # share of these limits for the hops after the graph
LIVENESS = 0.01  # relative L2
# Training kernel against float32 on the same weights; two may add up. SmolLM2: nf4 .0007, int8 in float32 0, bfloat16 .0014
LIVE_KERNEL_KL = {"nf4": 0.002, "int8": 0.001, "bfloat16": 0.003, "float16": 0.001}
PROBES = 16  # held-out prompts
POSITIONS = 32  # compared in each prompt
INT8_SAME = 0.99  # share of an encoder's answers that its int8 graph must repeat
INT8_COSINE = 0.99  # between a vector and its int8 graph's: from here on they count as equal
INT8_SPREAD = 0.1  # of the standard deviation of a regression's numbers: up to here two count as equal
PROFILE_KL, PROFILE_TOP1 = 0.01, 0.95  # for a decoder's other graphs against its fp32 one
# For an int4 graph. KEPT: its source was already in 4 bits, so only activations are rounded. Otherwise weights are rounded, too:
# llama.cpp's Q4_K_M loses .031 on Llama 3 8B by llama.cpp's own table, and small models lose more than large ones.
INT4_KEPT_KL, INT4_KEPT_TOP1 = 0.005, 0.95
INT4_KL, INT4_TOP1 = 0.05, 0.88
CACHE_KL, CACHE_TOP1 = 0.005, 0.95  # for keys and values in int8 against float32, of the same graph
HELD_TOKENS = 10_000  # compared between a decoder's graphs
