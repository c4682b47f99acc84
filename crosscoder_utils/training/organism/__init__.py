"""The embedded models: story grammar, tokenizer, story model, recipe, and the pipeline that makes a model from nothing."""
