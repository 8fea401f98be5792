"""From photos to cameras: features, pairs, matches, calibration, submodel mapping. The only room that imports pycolmap."""
