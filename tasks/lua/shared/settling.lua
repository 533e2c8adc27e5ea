-- Tells whether Redis has just come back.

local SETTLING_LEASES = 0.5 -- Workers write three times a lease.

-- Returns the time from which jobs may be claimed. It is in the future if Redis was restarted or replaced a moment ago.
-- Also returns the id of Redis' run if it is new, so that `is_settling` can note it.
local function settled_at(time)
  local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
  local known = redis.call('HMGET', PREFIX .. 'run', 'id', 'settled_at')
  if known[1] == run then return tonumber(known[2]) end
  return known[1] and time + SETTLING_LEASES * LEASE_SECONDS or 0, run
end

-- Returns whether Redis was restarted or replaced a moment ago. It may have lost its last second. A job that looks
-- unclaimed may be running, and its worker must have the time to write before another worker claims it.
local function is_settling(time)
  local begins_at, new_run = settled_at(time)
  if new_run then
    redis.call('HSET', PREFIX .. 'run', 'id', new_run, 'settled_at', precise(begins_at))
    redis.call('DEL', PREFIX .. 'lifelines_seen') -- All connections are new.
  end
  return time < begins_at
end
