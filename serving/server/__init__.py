"""`python -m serving serve`: a bundle behind HTTP, by the Open Inference Protocol. Needs the extra server."""
