"""What the papers published about blends, for reports to show beside ours; nothing is computed.

`FLUX_*` and `SEP_OUTCOMES`: blend2flux and blend2mask2flux (Boucaud et al. 2020, MNRAS 491, 2481),
recomputed from the catalog in the authors' repository with the formulas of
`models.scores_of_pairs`: 4,776 simulated pairs of real galaxies (HST, F160W), brighter than 23 mag.
`BLENDS_*`: BlendHunter (Farrens et al. 2022, A&A 657, A98), from arrays and figures in theirs.
Shares are 0 to 1 and pixels are theirs, so that only ratios and shapes compare with other images.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.scores_of_pairs import PairScores

NETWORKS = {"blend2flux": "256 or 512 filters", "blend2mask2flux": "U-Net, then fluxes"}
SEP_FACTOR = 1.3062  # 0.29 mag by which the published SExtractor fluxes had been scaled
SEP_OUTCOMES = {"both": 0.743, "one": 0.228, "more than two": 0.029}  # shares of the pairs
TRIALS = 5  # of each noise in `BLENDS_BY_NOISE`


def _scores(
    n: int,
    bias: float,
    median: float,
    sigma: float,
    outliers: float,
    mag_mape: float,
    flux_mape: float,
    flux_median_ape: float,
    undetected: int = 0,
) -> PairScores:
    return PairScores(
        n=n,
        bias=bias,
        median=median,
        sigma=sigma,
        outliers=round(outliers / 100, 6),
        mag_mape=round(mag_mape / 100, 6),
        flux_mape=round(flux_mape / 100, 6),
        flux_median_ape=round(flux_median_ape / 100, 6),
        undetected=undetected,
    )


# By set of galaxies and method: n, bias, median, sigma [mag], then outliers, magnitude MAPE, flux
# MAPE and median APE in percent. "seen" are the galaxies that SExtractor detected.
FLUX_SCORES: dict[str, dict[str, PairScores]] = {
    "central, seen": {
        "blend2flux": _scores(3844, 0.0152, 0.0100, 0.1203, 0.156, 0.3856, 7.566, 5.270),
        "blend2mask2flux": _scores(3844, 0.0161, 0.0134, 0.1113, 0.104, 0.3463, 6.785, 4.595),
        "sep": _scores(3844, 0.1014, 0.0187, 0.5421, 12.435, 1.5993, 29.824, 18.435),
    },
    "companion, seen": {
        "blend2flux": _scores(4344, 0.0117, 0.0067, 0.1270, 0.115, 0.4003, 7.871, 5.352),
        "blend2mask2flux": _scores(4344, 0.0166, 0.0152, 0.1195, 0.023, 0.3859, 7.593, 5.243),
        "sep": _scores(4344, 0.0024, -0.0275, 0.7098, 16.229, 1.9717, 44.381, 21.341),
    },
    "pairs of which both are seen": {
        "blend2flux": _scores(7100, 0.0109, 0.0072, 0.1199, 0.113, 0.3841, 7.570, 5.276),
        "blend2mask2flux": _scores(7100, 0.0161, 0.0147, 0.1120, 0.042, 0.3587, 7.043, 4.814),
        "sep": _scores(7100, 0.1651, 0.0390, 0.5788, 11.127, 1.5751, 25.779, 16.336),
    },
    "all other pairs": {
        "blend2flux": _scores(2452, 0.0086, 0.0055, 0.1532, 0.326, 0.4834, 9.713, 6.572),
        "blend2mask2flux": _scores(2452, 0.0020, 0.0052, 0.1481, 0.285, 0.4597, 9.340, 6.194),
    },
    "central": {
        "blend2flux": _scores(4776, 0.0114, 0.0082, 0.1286, 0.168, 0.4102, 8.148, 5.589),
        "blend2mask2flux": _scores(4776, 0.0116, 0.0113, 0.1210, 0.147, 0.3738, 7.418, 4.964),
        "sep": _scores(
            3982, 0.1107, 0.0196, 0.5596, 13.184, 1.6574, 30.522, 18.964, undetected=794
        ),
    },
    "companion": {
        "blend2flux": _scores(4776, 0.0092, 0.0054, 0.1300, 0.168, 0.4090, 8.091, 5.474),
        "blend2mask2flux": _scores(4776, 0.0134, 0.0139, 0.1239, 0.063, 0.3954, 7.847, 5.382),
        "sep": _scores(
            4482, 0.0500, -0.0208, 0.7985, 17.849, 2.1663, 45.209, 22.269, undetected=294
        ),
    },
    "pooled": {
        "blend2flux": _scores(9552, 0.0103, 0.0067, 0.1293, 0.168, 0.4096, 8.120, 5.537),
        "blend2mask2flux": _scores(9552, 0.0125, 0.0123, 0.1224, 0.105, 0.3846, 7.632, 5.199),
        "sep": _scores(
            8464, 0.0785, -0.0007, 0.6970, 15.655, 1.9269, 38.299, 20.597, undetected=1088
        ),
    },
    "pairs of which more than two are seen": {
        "blend2flux": _scores(276, 0.0040, 0.0025, 0.156, 0, 0.546, 10.71, float("nan")),
        "blend2mask2flux": _scores(276, -0.0006, 0.0139, 0.138, 0, 0.478, 9.45, float("nan")),
        "sep": _scores(276, 0.9581, 0.6797, 1.416, 51.4, 5.78, 60.6, float("nan")),
    },
}

# Flux MAPE of the paper's table 2: central, companion, total. The catalog above does not
# reproduce it to the digit: it is cut at 23 mag, and does not say which network it came from.
FLUX_TABLE: dict[str, tuple[float, float, float]] = {
    "blend2flux, 64 filters": (0.0933, 0.0879, 0.0906),
    "blend2flux, 256 filters": (0.0839, 0.0801, 0.0820),
    "blend2flux, 512 filters": (0.0825, 0.0798, 0.0812),
}

# Central galaxies by magnitude difference (central less companion): median and sigma [mag].
FLUX_EDGES = (-2.000, -1.334, -0.667, -0.001, 0.666, 1.332, 1.999)
FLUX_SIZES = (542, 653, 843, 882, 603, 321)
FLUX_MEDIANS = {
    "blend2flux": (0.0179, 0.0124, 0.0108, 0.0017, 0.0086, -0.0057),
    "blend2mask2flux": (0.0255, 0.0149, 0.0139, 0.0050, 0.0135, -0.0107),
    "sep": (-0.0862, -0.0286, 0.0135, 0.0760, 0.1008, 0.1145),
}
FLUX_SIGMAS = {
    "blend2flux": (0.0685, 0.0911, 0.1100, 0.1275, 0.1579, 0.1523),
    "blend2mask2flux": (0.0755, 0.0832, 0.1023, 0.1084, 0.1475, 0.1450),
    "sep": (0.3014, 0.3101, 0.4917, 0.5961, 0.6995, 0.7367),
}

# Flux MAPE of the central galaxy by its kind.
FLUX_BY_KIND: dict[str, dict[str, float]] = {
    "blend2flux": {"bulge": 0.1063, "disc": 0.0704, "bulge+disc": 0.0688, "irregular": 0.0887},
    "blend2mask2flux": {"bulge": 0.0960, "disc": 0.0590, "bulge+disc": 0.0642, "irregular": 0.0828},
}

# Median difference [mag] of the companion where the two are closer than 0.667 of its radius (98
# pairs), and of the central galaxy where they are closer than 0.667 of its own (133).
FLUX_CLOSEST = {
    "companion": {"blend2flux": 0.227, "blend2mask2flux": 0.109, "sep": -0.468},
    "central": {"blend2flux": 0.011, "blend2mask2flux": 0.012, "sep": -0.447},
}

# Overlap bias, true less found over true. Mean IoUs are not in the text that was at hand.
OVERLAP_BIAS = {"U-Net": -0.05, "blend2mask2flux": 0.31}


@dataclass(frozen=True)
class Verdicts:
    """Scores at one noise; blends and single galaxies are equally many."""

    accuracy: float
    deviation: float  # standard deviation of the accuracy over the trials
    found: float  # of the blends
    spared: float  # of the single galaxies
    found_close: float  # of the blends closer than 10 pixels
    found_distant: float  # of the others


# Parametric simulations, 4,000 blends and as many single galaxies, by noise [ADU]. A network was
# trained at each noise; SExtractor was told where the galaxies are (`truth_aware_verdict`).
BLENDS_BY_NOISE: dict[str, dict[int, Verdicts]] = {
    "BlendHunter": {
        5: Verdicts(0.9569, 0.0018, 0.9242, 0.9896, 0.8133, 0.9388),
        14: Verdicts(0.9146, 0.0037, 0.8616, 0.9676, 0.7178, 0.8806),
        18: Verdicts(0.8884, 0.0022, 0.8198, 0.9569, 0.6749, 0.8390),
        26: Verdicts(0.8278, 0.0020, 0.7289, 0.9266, 0.6030, 0.7456),
        35: Verdicts(0.7686, 0.0042, 0.6525, 0.8846, 0.5469, 0.6665),
        40: Verdicts(0.7431, 0.0037, 0.6095, 0.8768, 0.5221, 0.6211),
    },
    "sep": {
        5: Verdicts(0.9443, 0.0003, 0.8889, 0.9997, 0.4099, 0.9522),
        14: Verdicts(0.9451, 0.0007, 0.8924, 0.9979, 0.4206, 0.9548),
        18: Verdicts(0.9371, 0.0017, 0.8811, 0.9931, 0.4197, 0.9421),
        26: Verdicts(0.8799, 0.0013, 0.7960, 0.9638, 0.3692, 0.8525),
        35: Verdicts(0.7492, 0.0030, 0.6228, 0.8756, 0.2634, 0.6703),
        40: Verdicts(0.6701, 0.0047, 0.5302, 0.8099, 0.2128, 0.5721),
    },
}
SEP_MISSED = {5: 0.0001, 14: 0.0006, 18: 0.0024, 26: 0.0177, 35: 0.0686, 40: 0.1115}

# The paper's figures, read to about 0.001: accuracy in later simulations by noise [ADU].
BLENDS_ACCURACY: dict[str, dict[int, float]] = {
    "BlendHunter": {5: 0.975, 10: 0.968, 15: 0.951, 20: 0.923, 25: 0.891, 30: 0.854, 35: 0.818},
    "sep": {5: 0.945, 10: 0.9465, 15: 0.9455, 20: 0.933, 25: 0.903, 30: 0.850, 35: 0.779},
}

# Realistic images (CFIS-like), 40,000 blends and as many single galaxies, by the noise of the
# training images [ADU]: accuracy, and accuracy less SExtractor's for close and distant blends.
CFIS_ACCURACY: dict[int, float] = {
    5: 0.869,
    10: 0.932,
    15: 0.932,
    20: 0.921,
    25: 0.905,
    30: 0.883,
    35: 0.880,
}
CFIS_GAIN_CLOSE: dict[int, float] = {
    5: 0.056,
    10: 0.164,
    15: 0.179,
    20: 0.173,
    25: 0.164,
    30: 0.145,
    35: 0.140,
}
CFIS_GAIN_DISTANT: dict[int, float] = {
    5: -0.051,
    10: 0.003,
    15: 0.000,
    20: -0.012,
    25: -0.027,
    30: -0.050,
    35: -0.053,
}
CFIS_SEP = {"all": 0.9113, "close": 0.6921, "distant": 0.9416}

# The same as shares of all cutouts: blends found, blends missed, false alarms, singles spared.
CFIS_CONFUSION: dict[int, tuple[float, float, float, float]] = {
    5: (0.380, 0.120, 0.011, 0.489),
    10: (0.460, 0.040, 0.028, 0.472),
    15: (0.472, 0.028, 0.040, 0.460),
    20: (0.475, 0.025, 0.054, 0.446),
    25: (0.477, 0.023, 0.072, 0.428),
    30: (0.478, 0.022, 0.095, 0.405),
    35: (0.477, 0.023, 0.097, 0.403),
}
CFIS_SEP_CONFUSION = (0.433, 0.067, 0.020, 0.479)
