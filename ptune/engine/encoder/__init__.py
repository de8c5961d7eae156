"""The engine of encoders: padded passes of the body, each under one adapter, and a head for each."""
