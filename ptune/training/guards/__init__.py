"""What watches over a training: infinite values, spikes, collapse, nothing learnt."""
