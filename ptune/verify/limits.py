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
# torch against llama.cpp on the same, dequantised weights. llama.cpp keeps keys and values in float16, rounds activations to it
# beside weights in F16, and to 8 bits beside quantised ones, as our int8 does, whose limit this is. SmolLM2, base and with an
# adapter: F32 2e-6 and 6e-7, F16 4e-6 and 2e-6, Q8_0 .0050 and .0031, Q4_1 .0059 and .0032
LLAMA_CPP_FLOAT_KL, LLAMA_CPP_FLOAT_TOP1 = 2e-4, 0.97
LLAMA_CPP_KL, LLAMA_CPP_TOP1 = PROFILE_KL, 0.93
# Relative L2 of the adapter's effect, beside float and quantised weights. SmolLM2: F32 .002, F16 .003, Q8_0 and Q4_1 .11; an
# adapter that is left out, doubled or halved is .5 or more off
LLAMA_CPP_FLOAT_LIVENESS, LLAMA_CPP_LIVENESS = 0.03, 0.3
GGUF_KL = {
    "F16": (0.001, 0.98),
    "Q8_0": (PROFILE_KL, PROFILE_TOP1),
}  # of rounding the weights; 4 bits: INT4_KL, INT4_TOP1
IMAGES = 1e-4  # relative L2 of the features of images, torch against the graph
