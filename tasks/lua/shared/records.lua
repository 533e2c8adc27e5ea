-- A job's record and log: functions that read them, and changes that affect nothing else.

-- A job runs alone after this many attempts in a row that died without a token, because it may have killed its workers.
local ALONE_FROM_FAILS = 2

-- Returns whether a job has the priority `low`: only that one moves a job's turn to after its fair tag.
local function is_low(score, tag) return score and tag and tonumber(score) > tonumber(tag) or false end

-- Returns the fields of a record that the transitions need, or nil if there is no such job.
local function load_job(id)
  local f = redis.call('HMGET', key('job', id), 'owner', 'queue', 'status', 'n', 'score', 'cost',
    'created_at', 'started_at', 'timeout_at', 'expires_at', 'token', 'place', 'progress', 'model', 'pool',
    'worker', 'taken', 'fails', 'version', 'bytes', 'tag')
  if not f[1] then return nil end
  return {
    owner = f[1], queue = f[2], status = f[3], n = tonumber(f[4]), score = f[5], cost = tonumber(f[6]),
    created_at = f[7], started_at = tonumber(f[8]), timeout_at = tonumber(f[9]),
    expires_at = tonumber(f[10]), lease_token = f[11], place = f[12], progress = f[13] == '1',
    model = f[14], engine_pool = f[15], worker = f[16], taken = tonumber(f[17]),
    is_alone = (tonumber(f[18]) or 0) >= ALONE_FROM_FAILS, version = tonumber(f[19]),
    bytes = tonumber(f[20]), is_low = is_low(f[5], f[21]),
  }
end

local function set_status(job, id, from, to)
  redis.call('HSET', key('job', id), 'status', to)
  redis.call('HINCRBY', PREFIX .. 'counts', from, -1)
  redis.call('HINCRBY', PREFIX .. 'counts', to, 1)
  local index = key('jobs', job.owner)
  redis.call('ZREM', index .. ':' .. from, id)
  redis.call('ZADD', index .. ':' .. to, job.created_at, id)
end

-- Tells the readers of a job about entries that its log has now, in lines: first seq, entry, entry, ... No entry has a line
-- end, because JSON escapes it. from, to: the entries' places in `entries`.
local function publish(id, first_seq, entries, from, to)
  redis.call('PUBLISH', key('events', id), first_seq .. '\n' .. table.concat(entries, '\n', from, to))
end

-- Appends entries to the log and publishes them.
local function append(id, entries)
  local length = redis.call('RPUSH', key('log', id), unpack(entries))
  publish(id, length - #entries + 1, entries, 1, #entries)
end

-- Adds to the memory that an owner's records are counted to take.
local function add_bytes(owner, bytes)
  if redis.call('HINCRBY', PREFIX .. 'bytes', owner, bytes) <= 0 then redis.call('HDEL', PREFIX .. 'bytes', owner) end
end

-- Returns why an owner may not store this much more: nearly_full, over_share, or nil if it may.
local function memory_refusal(owner, bytes, memory_share)
  if redis.call('EXISTS', PREFIX .. 'nearly_full') == 1 then return 'nearly_full' end
  local most_bytes = memory_share * tonumber(redis.call('GET', PREFIX .. 'maxmemory') or 0)
  local own_bytes = tonumber(redis.call('HGET', PREFIX .. 'bytes', owner) or 0)
  if most_bytes > 0 and own_bytes + bytes > most_bytes then return 'over_share' end
end

-- Ends the last attempt, if it has not ended. Returns the seconds that all attempts took.
local function end_attempt(id, time, reason)
  local record = key('job', id)
  local attempts = cjson.decode(redis.call('HGET', record, 'attempts') or '[]')
  local last = attempts[#attempts]
  if last and not last.ended_at then
    last.ended_at = time
    last.reason = reason
    redis.call('HSET', record, 'attempts', cjson.encode(attempts))
  end
  local seconds = 0
  for _, attempt in ipairs(attempts) do seconds = seconds + (attempt.ended_at or time) - attempt.started_at end
  return seconds
end
