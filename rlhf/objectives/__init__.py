"""Pure tensor mathematics: tensors and floats in, tensors out.

Index t speaks about token t. `m_t` is 1 for sampled tokens, the end-of-sequence token included.
"""
