"""One module per gateway protocol: `read` a head into a Subrequest, `write` a verdict.

A protocol reads its own gateway's headers only: a header that one gateway sets, another passes on
as the client sent it.
"""
