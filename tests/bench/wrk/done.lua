-- The last line of wrk's output, for load.py. Times are in microseconds.
function done(summary, latency)
   local errors = summary.errors
   local broken = errors.connect + errors.read + errors.write + errors.timeout
   io.write(string.format("sample answers=%d duration=%d refused=%d broken=%d p50=%d p99=%d\n",
      summary.requests, summary.duration, errors.status, broken,
      latency:percentile(50), latency:percentile(99)))
end
