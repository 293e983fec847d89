"""The generated pages of docs/reference/, one module for each."""
