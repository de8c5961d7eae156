"""What layers with states compute in the graph: causal convolutions, gated delta rules, state spaces, selective scans."""
