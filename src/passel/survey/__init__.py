"""Photos, cameras and the survey they form: reading EXIF/XMP, checking the input, splitting into submodels."""
