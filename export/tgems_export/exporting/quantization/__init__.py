"""INT8: quantized products, the ranges of their activations, the processor it is for, and what it costs.

products     the linear maps of a graph, and the part of the tower that each belongs to
ranges       what the activations around them take on real pictures
equalisation outliers moved from activations into weights
recipe       a graph in fp32 and a recipe to a graph in INT8
convolutions the same of its convolutions, with all maps between them
search       the recipe that changes the answers least, and the parts that stay in fp32
"""
