"""How what ships was made: a package for each encoder, with its recipe, its weights and its heads."""
