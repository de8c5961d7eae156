"""How logits become an answer: masks, beams, budgets of thought."""
