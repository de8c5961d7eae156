"""The Open Inference Protocol (KServe's v2) for encoders: https://github.com/kserve/open-inference-protocol"""
