"""The composition root: builds the parts from the settings, serves, reloads, stops."""
