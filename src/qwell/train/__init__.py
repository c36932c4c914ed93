"""Training: the decoder that serves, with autograd under it. The only room that imports torch.

Read `torch_ops.py` (the ops), `modules.py` (names, hooks, parameters), `losses.py`, `optim.py`.
"""
