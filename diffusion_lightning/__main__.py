"""`python -m diffusion_lightning`."""

from diffusion_lightning.cli import main

if __name__ == "__main__":
    main()
