"""CLs upper limits, discovery significances, and intervals of Feldman and Cousins."""

from .asymptotic import discovery, log_cls, log_expected_cls
from .cls import upper_limit
from .feldman_cousins import FeldmanCousins, feldman_cousins
from .results import BANDS, DiscoveryResult, LimitResult, PoolWorth

__all__ = [
    "BANDS",
    "DiscoveryResult",
    "FeldmanCousins",
    "LimitResult",
    "PoolWorth",
    "discovery",
    "feldman_cousins",
    "log_cls",
    "log_expected_cls",
    "upper_limit",
]
