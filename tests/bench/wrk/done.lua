-- The last line of wrk's output, for load.py. Times are in microseconds.
function done(summary, latency)
   local errors = summary.errors
   local socket_errors = errors.connect + errors.read + errors.write + errors.timeout
   io.write(string.format("sample responses=%d duration=%d status_errors=%d socket_errors=%d p50=%d p99=%d\n",
      summary.requests, summary.duration, errors.status, socket_errors,
      latency:percentile(50), latency:percentile(99)))
end
