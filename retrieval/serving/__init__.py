"""Candidate generation: text or vector in, one merged top-k out, with what it is worth.

    text -> vector              text/        how hard to try             effort/
    conditions -> bitmaps       filtering/   why one is missing          explaining/
    generations come and go     swap/        fresh entities              delta/
    several hosts               fleet/       processes, TLS, metrics     operate/

What is here is the middle: `engine` answers a call from what is `shown`, `fanout` asks its `shards`, `rankings` and
`worth` make the answer. It knows no gRPC; `wire`, `status`, `service` and `server` know no towers and no indexes.
Importing this package opens nothing and sets no thread count.
"""
