"""Diffusion models from any image degradation: cold, warm and hot (Bansal et al., arXiv 2208.09392)."""
