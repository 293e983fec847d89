"""One file per gateway protocol: `read` a head into a subrequest, `write` a verdict as an answer.

A gateway reads its own headers and nobody else's: what is truth behind one gateway is the client's
own text behind another.
"""
