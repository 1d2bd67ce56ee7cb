"""HellaSwag: which of four endings follows a context?"""
