"""Training: the decoder that serves, with autograd under it. The only package that imports torch.

Read `torch_ops.py` (the ops), `modules.py` (names, hooks, parameters), `losses.py`, `optim.py`.
"""

import os

# OpenMP's threads spin for milliseconds after every torch op, on the very cores our kernels work
# on. They read this when torch is first imported; a user's own setting stands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
