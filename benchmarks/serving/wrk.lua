-- For wrk: sends the bodies of a file, one a line, in turn, and ends with a line of JSON that load.py reads.
-- Arguments: the file, the number of connections, and the milliseconds in which a server may accept them.

local requests = {}
local last = 0
local connections, opening

function init(args)
  connections, opening = tonumber(args[2]), tonumber(args[3])
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

-- wrk asks before each request. The first of each connection waits: libuv accepts one connection each time that
-- it has answered all others, so a server that is already busy would seem to need seconds for these.
local asked = 0
function delay()
  asked = asked + 1
  return asked <= connections and opening or 0
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'measured {"requests": %d, "microseconds": %d, "received": %d, "failed": %d, "p50": %d, "p99": %d, '
      .. '"p99.9": %d, "slowest": %d}\n',
    summary.requests, summary.duration, summary.bytes,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
