"""The five stages of the chain, and the backends that can fill each of them."""

from augment.stages.base import Stage
from augment.stages.caption import BACKENDS as CAPTIONERS
from augment.stages.generate import BACKENDS as GENERATORS
from augment.stages.inpaint import BACKENDS as INPAINTERS
from augment.stages.refine import BACKENDS as REFINERS
from augment.stages.remove import BACKENDS as REMOVERS

BACKENDS: dict[str, dict[str, type[Stage]]] = {
    "remove": REMOVERS,
    "inpaint": INPAINTERS,
    "caption": CAPTIONERS,
    "refine": REFINERS,
    "generate": GENERATORS,
}
KINDS = tuple(BACKENDS)
