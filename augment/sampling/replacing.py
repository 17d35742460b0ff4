"""What every transform that replaces backgrounds has in common: its arguments, its counts and its epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from augment.errors import InputError
from augment.imaging.composite import BLENDS, Blend
from augment.sampling.checks import check_range
from augment.sampling.placement import Placement, as_placement
from augment.sampling.recipes import record_for
from augment.sampling.sampler import OnMiss, Sampler
from augment.sampling.schedules import Probability, Schedule, as_schedule
from augment.sampling.sources import Source, as_source
from augment.sampling.weights import as_weights
from augment.store.open import open_store
from augment.store.records import Store

if TYPE_CHECKING:
    from augment.recipe import Recipe
    from augment.sampling.compute import OnTheFly


class Replacing:
    """Base class of every `ReplaceBackground`. It comes before the library's own base class.

    `sampler` does the work, `recipe` is the recipe asked for as plain text: a Recipe's is the fingerprint of its
    backgrounds.
    """

    _takes_views = False  # whether the library has a form for several views of a sample

    def __init__(
        self,
        store: Store | str | Path,
        *,
        p: float | Schedule | Mapping[str, Any] = 0.5,
        source: str | Mapping[str, Any] | Source = "pool",
        on_miss: OnMiss = "keep",
        placement: Placement | Mapping[str, Any] | None = None,
        blend: Blend | Mapping[Blend, float] = "alpha",
        harmonize: float = 0.0,
        protect_labels: bool = True,
        recipe: str | Path | Recipe | None = None,
        report: bool = False,
        views: int = 1,
    ) -> None:
        """Open the store and check the arguments.

        Args:
            store: an `augment.Cache`, what `augment.open_store` returns, or a path.
            p: probability that a sample's background is replaced, or a function from the epoch to it, such as
                `augment.Linear`; then call `set_epoch` before each epoch.
            source: where backgrounds come from: "pool" (those of all images, its own among them, and scenes), "own",
                "pool:same", "pool:other", "scenes", any of these but the last with "plates:" before it, a mapping of
                weights over them, or an `augment.Source`, which explains them all.
            on_miss: what to do with an image that the store lacks: "keep" it, "compute" what is missing in this
                process, "raise" a MissError, or, if only its background is missing, take one from the "pool".
            placement: how the object may be moved, an `augment.Placement`; None keeps it in place. The object also
                stays in place if a label refers to anything but the object, or if several images share a sample's
                labels.
            blend: "alpha", "feather" for an edge that fades inwards, or "poisson" for one whose step in color is
                halved; or a mapping of weights over them, of which each image draws one, so that a model cannot learn
                one kind of edge (Dwibedi et al., "Cut, Paste and Learn", 2017).
            harmonize: how far, 0 to 1, the object's colors move towards the background's, but never to another color.
            protect_labels: keep every labelled pixel. The matte is widened to the sample's masks; a sample is
                returned unchanged if its boxes or keypoints disagree with the matte; a sample with any such label is
                blended with "alpha" and without `harmonize`.
            recipe: which of the store's recipes: a name, a TOML file or a Recipe; None is the latest one.
            report: add to each sample what happened to it, an `augment.sampling.report.Report`; with `views`, a tuple
                of them.
            views: how many composites to make of each image, each with draws of its own (torchvision only). With 2 or
                more, each image and each label that moves with it becomes a tuple of its views, for contrastive
                training: `(image, label)` becomes `((view, view), label)`. A later v2 transform treats all views of a
                sample alike; apply it to each view by itself where it should not.

        `p`, `source` and `placement` may also be the dicts that serialization makes of them.

        Raises StoreError if the store cannot be used, InputError naming an argument that cannot work.
        """
        super().__init__()
        if on_miss not in get_args(OnMiss):
            raise InputError(f"on_miss: {on_miss!r} is not one of {', '.join(get_args(OnMiss))}")
        blends = as_weights("blend", blend, BLENDS)
        check_range("harmonize", harmonize)
        for name, switch in (("protect_labels", protect_labels), ("report", report)):
            if not isinstance(switch, bool):
                raise InputError(f"{name}: {switch!r} is not True or False")
        if not isinstance(views, int) or views < 1:
            raise InputError(f"views: {views!r} is not a number of composites, 1 or more")
        if views > 1 and not self._takes_views:
            raise InputError("views: albumentations has no form for several views: call the pipeline once for each")
        self.report = report
        self.views = views
        self._probability = Probability(as_schedule(p))
        settled_source, settled_placement = as_source(source), as_placement(placement)
        opened = open_store(store)
        compute = _on_the_fly(opened, recipe) if on_miss == "compute" else None
        record = record_for(opened, recipe) if compute is None else compute.record
        self.recipe = None if recipe is None else str(recipe) if isinstance(recipe, str | Path) else record.background
        self.sampler = Sampler(
            opened,
            record,
            source=settled_source,
            on_miss=on_miss,
            placement=settled_placement,
            blend=blend if isinstance(blend, str) else cast("dict[Blend, float]", blends),
            harmonize=harmonize,
            protect_labels=protect_labels,
            compute=compute,
        )

    @property
    def p(self) -> float:
        """The probability in this epoch."""
        return self._probability.now()

    @p.setter
    def p(self, value: float | Schedule) -> None:
        self._probability = Probability(value)

    @property
    def schedule(self) -> float | Schedule:
        """The probability, or the function of the epoch that gives it."""
        return self._probability.p

    @property
    def counts(self) -> dict[str, int]:
        """How many images were "hits", "misses" and so on, in this process and its workers, with all copies.

        "unusable": the matte must not be used; "mismatched": the image under a key or path is more than a resize of its
        matte's; "doubtful": samples that hold something that is not understood; "no image": samples without an image;
        "protected: mask" (box, keypoint): returned unchanged because of such a label; "unmoved": hits whose labels
        forbade moving the object. If most images stay unchanged, or all from some time on, a warning says why, once.
        """
        return self.sampler.counts.totals()

    def set_epoch(self, epoch: int) -> None:
        """Tell the schedule `p` which epoch begins, in this process and its workers, persistent ones too, and in all
        copies."""
        self._probability.set_epoch(epoch)


def _on_the_fly(store: Store, recipe: str | Path | Recipe | None) -> OnTheFly:
    # Imported only here: it brings the stages and pydantic along.
    from augment.sampling.compute import OnTheFly

    return OnTheFly(store, recipe)
