"""Taylor polynomials of densities: power series, and the expansion of a nominal density around every event."""

from .expansion import expand, expansion_order, polynomial, remainder, steepness
from .series import monomials

__all__ = ["expand", "expansion_order", "monomials", "polynomial", "remainder", "steepness"]
