"""Colours of every figure and page: the same label, trait or series has the same colour everywhere."""

# Concept strength 0 to 3: one ordered ramp whose steps keep their order in greyscale and colour blindness.
LABEL_COLOURS = ("#C4B15A", "#DD8440", "#BE3A62", "#3B0F5C")
# Series without an order: Okabe & Ito (2008), distinguishable with any colour vision.
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222", "#E69F00", "#56B4E9")
ACCENT, CONTRAST = SERIES_COLOURS[0], SERIES_COLOURS[1]  # the finding, and what it is held against
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#E2E2E2"  # text and axes, secondary marks, grids
