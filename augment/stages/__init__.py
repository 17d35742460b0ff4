"""The stages of the chain, five that every recipe has and two that it may have, and the backends of each."""

from augment.stages.base import Stage
from augment.stages.caption import BACKENDS as CAPTIONERS
from augment.stages.enrich import BACKENDS as ENRICHERS
from augment.stages.generate import BACKENDS as GENERATORS
from augment.stages.guard import BACKENDS as GUARDS
from augment.stages.inpaint import BACKENDS as INPAINTERS
from augment.stages.refine import BACKENDS as REFINERS
from augment.stages.remove import BACKENDS as REMOVERS

BACKENDS: dict[str, dict[str, type[Stage]]] = {
    "remove": REMOVERS,
    "inpaint": INPAINTERS,
    "caption": CAPTIONERS,
    "refine": REFINERS,
    "generate": GENERATORS,
    "enrich": ENRICHERS,
    "guard": GUARDS,
}
OPTIONAL = ("enrich", "guard")
KINDS = tuple(kind for kind in BACKENDS if kind not in OPTIONAL)
