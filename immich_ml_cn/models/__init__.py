"""What the models need before and after the graph: arrays in, arrays out."""
