"""Configurations for gateways, rendered from the settings of a deployment: `sidegate gateway`.

`products.py` lists the gateways and the parts of each configuration, `templates/` has the text of
each part, `deployment.py` what the text depends on. A whole configuration includes the parts, so
what is pasted into a site and what deploy/ has are the same lines.
"""
