-- wrk: posts the bodies of a folder in turn, and prints what it measured as one JSON object.
-- wrk ... -s post.lua URL -- FOLDER COUNT Header=value ...

local requests, turn = {}, 0

function init(arguments)
  local headers = {}
  for i = 3, #arguments do
    local name, value = arguments[i]:match("^([^=]+)=(.*)$")
    headers[name] = value
  end
  for i = 0, tonumber(arguments[2]) - 1 do
    local file = assert(io.open(arguments[1] .. "/" .. i, "rb"))
    requests[i] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = (turn + 1) % (#requests + 1)
  return requests[turn]
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format('{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
