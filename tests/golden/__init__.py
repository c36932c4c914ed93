"""Numbers computed once by others (transformers, the float reference) and the scripts that did."""
