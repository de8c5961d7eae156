"""Draft tokens: proposed cheaply, checked by the model in one step."""
