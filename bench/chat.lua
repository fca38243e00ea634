-- One fixed chat request, read from a file, and what came of it as one line of JSON on stdout. For wrk.
-- Arguments: the file with the body, the key.

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.path = "/v1/chat/completions"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = "Bearer " .. args[2]
  file:close()
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
  print(string.format('{"calls": %d, "seconds": %.6f, "failed": %d, "p50_us": %d, "p99_us": %d}',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50), latency:percentile(99)))
end
