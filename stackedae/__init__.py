"""Features of image patches without labels, learned where the patches are."""

import lazy_loader

# Workers import only what their tasks need, which takes half the time: much of what
# a killed one costs.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
