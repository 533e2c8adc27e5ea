-- The main events of a job's life: an attempt begins, the job ends, the job is removed.
--
-- Needs: places

local PACK_AFTER_SECONDS = 10 -- By then the readers have read to the end, and the worker has its answer.
local SLOT_SECONDS_SMOOTHING = 0.1

-- Moves a job from line, offered or leases to leases, for LEASE_SECONDS. The caller writes the log entry.
local function begin_attempt(job, id, lease_token, worker, engine_pool, number, time)
  leave_place(job, id)
  enter_engine_pool(job, id, 'leases', engine_pool, worker, precise(time + LEASE_SECONDS))
  if job.is_low then redis.call('HSET', key('low', engine_pool), id, lease_token) end
  redis.call('ZREM', PREFIX .. 'deadlines', id)
  local record = key('job', id)
  local attempts = cjson.decode(redis.call('HGET', record, 'attempts'))
  attempts[#attempts + 1] = { number = number, worker = worker, started_at = time }
  redis.call('HSET', record, 'token', lease_token, 'attempts', cjson.encode(attempts), 'progress', 0)
  if not job.started_at then
    redis.call('HSET', record, 'started_at', precise(time))
    local timeout = redis.call('HGET', record, 'timeout')
    if timeout then redis.call('HSET', record, 'timeout_at', precise(time + tonumber(timeout))) end
    set_status(job, id, 'queued', 'in_progress')
  end
end

-- Gives an owner back in line what a job was charged for and did not use. `finish`: where an owner's last job ends in
-- virtual time.
local function correct_charge(job, used)
  local finish = key('finish', job.model)
  if redis.call('ZSCORE', finish, job.owner) then
    local unused = math.max(0, job.cost - used)
    redis.call('ZINCRBY', finish, -unused, job.owner)
    if job.is_low and redis.call('HEXISTS', key('low_part', job.model), job.owner) == 1 then
      redis.call('HINCRBYFLOAT', key('low_part', job.model), job.owner, -unused)
    end
  end
end

-- Ends a job. `code` and `message` are its error, or nil. tokens: how many its choices have, or nil if nobody knows;
-- then the number of log entries stands in for it.
local function end_job(job, id, status, code, message, time, tokens)
  leave_place(job, id)
  redis.call('ZREM', PREFIX .. 'deadlines', id)
  local record = key('job', id)
  redis.call('HSET', record, 'ended_at', precise(time), 'place', 'ended')
  if code then redis.call('HSET', record, 'error_code', code, 'error_message', message) end
  if job.started_at then
    local stats = key('stats', job.model)
    local took = end_attempt(id, time, nil) * job.n
    local before = tonumber(redis.call('HGET', stats, 'slot_seconds') or took)
    redis.call('HSET', stats, 'slot_seconds', precise(before + SLOT_SECONDS_SMOOTHING * (took - before)))
  end
  correct_charge(job, tokens or redis.call('LLEN', key('log', id)))
  set_status(job, id, job.status, status)
  -- The reaper removes all jobs that are RETENTION_SECONDS in this set. One that is kept for less enters as an older one.
  local keep = math.min(RETENTION_SECONDS, tonumber(redis.call('HGET', record, 'keep_seconds') or RETENTION_SECONDS))
  redis.call('ZADD', PREFIX .. 'ended', precise(time - RETENTION_SECONDS + keep), id)
  redis.call('ZADD', PREFIX .. 'unpacked', precise(time + PACK_AFTER_SECONDS), id)
  append(id, { '["d","' .. status .. '"]' })
end

-- Removes an ended job. An idempotency key is removed with the last of its jobs.
local function purge(job, id)
  local idempotency_key = redis.call('HGET', key('job', id), 'idempotency_key')
  if idempotency_key then
    local idempotency = key('idempotency', job.owner .. ':' .. idempotency_key)
    if redis.call('HINCRBY', idempotency, 'left', -1) <= 0 then redis.call('DEL', idempotency) end
  end
  add_bytes(job.owner, -job.bytes)
  redis.call('DEL', key('job', id), key('log', id))
  redis.call('ZREM', PREFIX .. 'ended', id)
  redis.call('ZREM', PREFIX .. 'unpacked', id)
  redis.call('ZREM', key('jobs', job.owner), id)
  redis.call('ZREM', key('jobs', job.owner) .. ':' .. job.status, id)
  redis.call('HINCRBY', PREFIX .. 'counts', job.status, -1)
end
