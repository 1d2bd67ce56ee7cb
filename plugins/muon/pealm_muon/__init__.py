"""Muon: orthogonalised momentum for matrices, AdamW for the rest."""
