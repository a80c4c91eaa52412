"""The command line of the classifier that guides: ``python -m diffusion_lightning.classifier fit --config …``.

It is that of the package with ``conditioning.DegradedClassifier`` in place of the usual module.
"""

from diffusion_lightning.cli import main
from diffusion_lightning.conditioning import DegradedClassifier

if __name__ == "__main__":
    main(module=DegradedClassifier)
