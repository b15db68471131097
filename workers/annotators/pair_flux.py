"""Annotator `pair_flux`: how bright is each of the two galaxies of a blend? (`models.pair_flux`)"""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from db.tables import ModelVersion, PairFlux
from models import extraction
from workers.annotators.base import Columns, CutoutBatch, DataFlag, Inputs, Output
from workers.annotators.light import FLAGS, FLUX, LightAnnotator, light_flags, light_inputs

SIZE = 128  # pixel, `models.pair_flux.SIZE`, which cannot be imported without Keras


class PairFluxFlag(DataFlag):
    """What can be wrong with a pair, beside its cutout and its light."""

    NO_COMPANION = 512, "no companion in the masks"


class PairFluxes(LightAnnotator):
    """Fluxes and masks of the network, and the fluxes that sep measures on the same pixels."""

    name: ClassVar[str] = "pair_flux"
    inputs: ClassVar[Inputs] = light_inputs(SIZE)
    outputs: ClassVar[tuple[Output, ...]] = (
        Output("flux_central", "nJy", FLUX, "Flux of the galaxy at the centre"),
        Output(
            "flux_central_err",
            "nJy",
            f"stat.error;{FLUX}",
            "Error of flux_central: half the width of its 68 % interval",
        ),
        Output("flux_companion", "nJy", FLUX, "Flux of the other galaxy"),
        Output(
            "flux_companion_err",
            "nJy",
            f"stat.error;{FLUX}",
            "Error of flux_companion: half the width of its 68 % interval",
        ),
        Output(
            "separation",
            "arcsec",
            "pos.angDistance",
            "Distance between the centroids of the light of the two galaxies",
        ),
        Output(
            "sep_flux_central",
            "nJy",
            FLUX,
            "AUTO flux of the central galaxy by sep (null where it detects nothing there), "
            "calibrated on the simulated galaxies of the card",
        ),
        Output(
            "sep_flux_companion",
            "nJy",
            FLUX,
            "AUTO flux of the companion by sep (null likewise: a lone detection counts for the "
            "galaxy it lies at), calibrated on the simulated galaxies of the card",
        ),
        Output("sep_detections", "", "meta.number", "How many sources sep detects"),
        Output(
            "masks",
            "",
            "meta.code",
            "Where the central galaxy is, then where its companion is: one bit per pixel of a "
            "square field, lowest row first",
        ),
    )
    flags: ClassVar[Iterable[DataFlag]] = (*FLAGS, *PairFluxFlag)
    table: ClassVar[type[PairFlux]] = PairFlux

    def load(self, version: ModelVersion) -> None:
        """Load the network, its weights checked against the card, and the calibration of sep.

        A card without a calibration, such as that of a network that gives no fluxes, leaves the
        fluxes of sep null: without one they are on no scale.
        """
        self._calibration = float(version.card.get("training", {}).get("sep_calibration", np.nan))
        super().load(version)

    def annotate(self, batch: CutoutBatch) -> Columns:
        """Return the outputs (NaN or None where there is nothing to say) and `flags`."""
        columns = super().annotate(batch)
        columns["separation"] *= batch.pixel_scale  # to arcsec
        return columns

    def look(self, seen: NDArray[np.float32]) -> Columns:
        """Return the outputs, each of shape (n,), but the separation in pixels."""
        said = self._predict(self._model, seen, self.batch_size)
        measured = extraction.photometry(
            seen, kind=extraction.ROW_KIND, subtract=extraction.ROW_SUBTRACT
        )
        by_sep = np.ma.masked_invalid(measured.flux * self._calibration)
        flags = light_flags(extraction.obstacles(seen, measured))
        if said.masks is not None:
            alone = ~said.masks[..., 1].any(axis=(1, 2))
            flags[alone] |= int(PairFluxFlag.NO_COMPANION)
        flux, error = self._if_given("flux", said.flux), self._if_given("error", said.error)
        return {
            "flux_central": flux[:, 0],
            "flux_central_err": error[:, 0],
            "flux_companion": flux[:, 1],
            "flux_companion_err": error[:, 1],
            "separation": np.ma.masked_invalid(said.separation),
            "sep_flux_central": by_sep[:, 0],
            "sep_flux_companion": by_sep[:, 1],
            "sep_detections": measured.detections,
            "masks": packed(said.masks, len(seen)),
            "flags": flags,
        }

    def _if_given(self, output: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The values, masked if the network has no such output: a U-Net gives no fluxes."""
        is_given = output in self._model.output
        return values if is_given else np.ma.masked_all_like(values)


def packed(masks: NDArray[np.bool_] | None, n: int) -> NDArray[np.object_]:
    """Masks (n, s, s, 2) as bytes, (n,): the first mask, then the second, each row by row.

    Unpack one by `np.unpackbits(np.frombuffer(row, np.uint8)).reshape(2, s, s)`, s * s being a
    multiple of 4. None where there are none.
    """
    result = np.full(n, None, object)
    if masks is not None:
        result[:] = [np.packbits(np.moveaxis(mask, -1, 0)).tobytes() for mask in masks]
    return result
