-- Posts one row to the founding example, and prints what wrk counted as JSON.
wrk.method = "POST"
wrk.body = '{"x":[1.0]}'
wrk.headers["Content-Type"] = "application/json"

function done(summary, latency, _)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"per_second": %.1f, "p50_ms": %.4f, "p99_ms": %.4f, "errors": %d}\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
