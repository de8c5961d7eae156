"""llama.cpp as it is inside the `xllamacpp` wheel: its C interface, and its server in a process of its own."""
