"""Learned, unbinned, multidimensional likelihoods with profiled systematic uncertainties, for zfit."""
