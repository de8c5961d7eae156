"""Translation, judged: how near what a model says comes to what people wrote."""
