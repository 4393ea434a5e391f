"""Pages that show a text under a model: one that decodes a proof by itself, one of a text's costs.

The HTML, the style, the page's modules and the decoder (decoder/*.mjs) lie beside these files.
"""
