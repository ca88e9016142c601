"""Pictures to pixels to answers: what runs a model file and says how sure it is."""
