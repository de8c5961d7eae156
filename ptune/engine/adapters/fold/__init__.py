"""Adapters of other PEFT types as LoRA pairs or gains. `fold.as_pairs` is the way in, `table.METHODS` lists the types, one file a method."""
