-- Tells whether Redis has just come back.

local SETTLING_LEASES = 0.5 -- Workers write three times a lease.

-- Returns whether Redis was restarted or replaced a moment ago. It may have lost its last second. A job that looks
-- unclaimed may be running, and its worker must have the time to write before another worker claims it.
local function is_settling(time)
  local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
  local known = redis.call('HMGET', PREFIX .. 'run', 'id', 'settled_at')
  if known[1] == run then return time < tonumber(known[2]) end
  local settled_at = known[1] and time + SETTLING_LEASES * LEASE_SECONDS or 0
  redis.call('HSET', PREFIX .. 'run', 'id', run, 'settled_at', precise(settled_at))
  redis.call('DEL', PREFIX .. 'lifelines_seen') -- All connections are new.
  return time < settled_at
end
