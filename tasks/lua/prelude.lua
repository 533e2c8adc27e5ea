-- Prepended to every script: the names of the keys and the steps that several transitions share.
--
-- The invariant: a job that has not ended is in exactly one of line:<queue>, offered:<pool> and
-- leases:<pool>. Only the functions here and claim.lua move a job between them.
--
-- A pool is the workers of one engine on one model: 'vllm:m'. A queue is where a model's jobs wait: for any
-- of its pools, 'any:m', or for one of them, 'vllm:m'. Fair tags are the model's, so that its queues compare.
--
-- ARGV[1..4] are the same for every script; a script's own arguments begin at ARGV[5].
-- Keys are computed, not declared: the product runs on one Redis, not on a Redis Cluster.
local PREFIX = ARGV[1]
local LEASE_SECONDS = tonumber(ARGV[2])
local RING_AGAIN_SECONDS = tonumber(ARGV[3])
local RETENTION_SECONDS = tonumber(ARGV[4])

local MAX_OFFERS_PER_CALL = 128
local PACK_AFTER_SECONDS = 10 -- Its readers have read to the end by then, and its worker has the answer.
local SLOT_SECONDS_SMOOTHING = 0.1
local SETTLING_LEASES = 0.5 -- Workers write three times a lease.
local ENTRIES_PER_APPEND = 1000 -- Lua's stack takes some thousand arguments.

local function key(kind, name) return PREFIX .. kind .. ':' .. name end

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- A full Redis refuses a script's first write, but only one that may need memory, and no later one
-- (redis/src/script.c). Whatever moves jobs on begins with this one, which does not: running jobs can end,
-- and ended ones make room.
local function write_although_full() redis.call('DEL', PREFIX .. 'nothing') end

-- Lua writes numbers with 14 digits, which would cut a time to hundredths of a second.
local function precise(number) return string.format('%.6f', number) end

local function set_status(job, id, from, to)
  redis.call('HSET', key('job', id), 'status', to)
  redis.call('HINCRBY', PREFIX .. 'counts', from, -1)
  redis.call('HINCRBY', PREFIX .. 'counts', to, 1)
  local index = key('jobs', job.owner)
  redis.call('ZREM', index .. ':' .. from, id)
  redis.call('ZADD', index .. ':' .. to, job.created_at, id)
end

-- Appends entries to the log and tells the readers: [first seq, entry, ...].
local function append(id, entries)
  local length = redis.call('RPUSH', key('log', id), unpack(entries))
  local first = length - #entries + 1
  redis.call('PUBLISH', key('events', id), '[' .. first .. ',' .. table.concat(entries, ',') .. ']')
end

-- The fields of a record that the transitions need; nil where there is no such job.
local function load_job(id)
  local f = redis.call('HMGET', key('job', id), 'owner', 'queue', 'status', 'n', 'score', 'cost',
    'created_at', 'started_at', 'timeout_at', 'expires_at', 'token', 'place', 'progress', 'model', 'pool')
  if not f[1] then return nil end
  return {
    owner = f[1], queue = f[2], status = f[3], n = tonumber(f[4]), score = f[5], cost = tonumber(f[6]),
    created_at = f[7], started_at = tonumber(f[8]), timeout_at = tonumber(f[9]),
    expires_at = tonumber(f[10]), token = f[11], place = f[12], progress = f[13] == '1',
    model = f[14], pool = f[15],
  }
end

-- Takes a job out of the set that it is in. `place` names it: line, offered or leases.
local function leave_place(job, id)
  if job.place == 'line' then
    redis.call('ZREM', key('line', job.queue), id)
  else
    redis.call('ZREM', key(job.place, job.pool), id)
    redis.call('HINCRBY', key('slots', job.pool), job.place, -job.n)
  end
end

local function enter_line(job, id)
  redis.call('ZADD', key('line', job.queue), job.score, id)
  redis.call('HSET', key('job', id), 'place', 'line')
  job.place = 'line'
end

-- `place`: offered or leases.
local function enter_pool(job, id, place, pool, score)
  redis.call('ZADD', key(place, pool), score, id)
  redis.call('HINCRBY', key('slots', pool), place, job.n)
  redis.call('HSET', key('job', id), 'place', place, 'pool', pool)
  job.place, job.pool = place, pool
end

-- While a job waits, the reaper watches its deadline; while it runs, its worker does.
local function watch_deadline(job, id)
  local deadline = job.expires_at
  if job.started_at then deadline = job.timeout_at end
  if deadline then redis.call('ZADD', PREFIX .. 'deadlines', precise(deadline), id) end
end

local function end_attempt(id, time, reason)
  local record = key('job', id)
  local attempts = cjson.decode(redis.call('HGET', record, 'attempts') or '[]')
  local last = attempts[#attempts]
  if last and not last.ended_at then
    last.ended_at = time
    last.reason = reason
    redis.call('HSET', record, 'attempts', cjson.encode(attempts))
  end
end

-- offered, line or leases -> leases, for LEASE_SECONDS. What the log says of it is the caller's.
local function begin_attempt(job, id, token, worker, pool, number, time)
  leave_place(job, id)
  enter_pool(job, id, 'leases', pool, precise(time + LEASE_SECONDS))
  redis.call('ZREM', PREFIX .. 'deadlines', id)
  local record = key('job', id)
  local attempts = cjson.decode(redis.call('HGET', record, 'attempts'))
  attempts[#attempts + 1] = { number = number, worker = worker, started_at = time }
  redis.call('HSET', record, 'token', token, 'attempts', cjson.encode(attempts), 'progress', 0)
  if not job.started_at then
    redis.call('HSET', record, 'started_at', precise(time))
    local timeout = redis.call('HGET', record, 'timeout')
    if timeout then redis.call('HSET', record, 'timeout_at', precise(time + tonumber(timeout))) end
    set_status(job, id, 'queued', 'in_progress')
  end
end

-- Ends a job. `code` and `message` are its error, or nil.
local function end_job(job, id, status, code, message, time)
  leave_place(job, id)
  redis.call('ZREM', PREFIX .. 'deadlines', id)
  local record = key('job', id)
  redis.call('HSET', record, 'ended_at', precise(time), 'place', 'ended')
  if code then redis.call('HSET', record, 'error_code', code, 'error_message', message) end
  if job.started_at then
    end_attempt(id, time, nil)
    local stats = key('stats', job.model)
    local took = (time - job.started_at) * job.n
    local before = tonumber(redis.call('HGET', stats, 'slot_seconds') or took)
    redis.call('HSET', stats, 'slot_seconds', precise(before + SLOT_SECONDS_SMOOTHING * (took - before)))
  else
    -- It never ran: its owner gets the turn back.
    redis.call('ZINCRBY', key('finish', job.model), -job.cost, job.owner)
  end
  set_status(job, id, job.status, status)
  redis.call('ZADD', PREFIX .. 'ended', precise(time), id)
  redis.call('ZADD', PREFIX .. 'unpacked', precise(time + PACK_AFTER_SECONDS), id)
  append(id, { '["d","' .. status .. '"]' })
end

-- Forgets an ended job.
local function purge(job, id)
  local idempotency_key = redis.call('HGET', key('job', id), 'idempotency_key')
  if idempotency_key then redis.call('DEL', key('idempotency', job.owner .. ':' .. idempotency_key)) end
  redis.call('DEL', key('job', id), key('log', id))
  redis.call('ZREM', PREFIX .. 'ended', id)
  redis.call('ZREM', PREFIX .. 'unpacked', id)
  redis.call('ZREM', key('jobs', job.owner), id)
  redis.call('ZREM', key('jobs', job.owner) .. ':' .. job.status, id)
  redis.call('HINCRBY', PREFIX .. 'counts', job.status, -1)
end

-- A job whose worker is gone goes back with the tag it had, and so to the front of the line.
local function back_to_line(job, id, time, reason)
  leave_place(job, id)
  enter_line(job, id)
  redis.call('HDEL', key('job', id), 'token')
  end_attempt(id, time, reason)
  watch_deadline(job, id)
end

-- Whether Redis has just been started again, or another one took its place. It may lack its last second:
-- what looks unclaimed may run, and its worker is to write before anybody else claims it.
local function is_settling(time)
  local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
  local known = redis.call('HMGET', PREFIX .. 'run', 'id', 'settled_at')
  if known[1] == run then return time < tonumber(known[2]) end
  local settled_at = known[1] and time + SETTLING_LEASES * LEASE_SECONDS or 0
  redis.call('HSET', PREFIX .. 'run', 'id', run, 'settled_at', precise(settled_at))
  return time < settled_at
end

-- The model's pools that ever had a worker, or a job of their own.
local function pools_of(model) return redis.call('SMEMBERS', key('pools', model)) end

local function live_slots(pool, time)
  local slots = 0
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key('alive', pool), precise(time), '+inf')) do
    slots = slots + tonumber(redis.call('HGET', key('capacity', pool), worker) or 0)
  end
  return slots
end

-- The first of the jobs that a pool may take, of those for any pool and those for this one: {id, job, score}.
-- What it could never hold is left to larger pools.
local function head_of(pool, model, live)
  local head
  for _, queue in ipairs({ 'any:' .. model, pool }) do
    local first = redis.call('ZRANGE', key('line', queue), 0, 0, 'WITHSCORES')
    local score = tonumber(first[2])
    if score and not (head and head.score <= score) then
      local job = load_job(first[1])
      if job.n <= live then head = { id = first[1], job = job, score = score } end
    end
  end
  return head
end

-- Offers one job. Virtual time follows the tag in service, but never passes what still stands in its line.
local function offer(head, pool, model, time)
  leave_place(head.job, head.id)
  enter_pool(head.job, head.id, 'offered', pool, precise(time + RING_AGAIN_SECONDS))
  local tag = math.min(head.score, tonumber(redis.call('HGET', key('job', head.id), 'tag')))
  local virtual = tonumber(redis.call('GET', key('virtual', model)) or 0)
  if tag > virtual then
    redis.call('SET', key('virtual', model), precise(tag))
    -- An owner whose last tag lies in the past counts as one without a past.
    redis.call('ZREMRANGEBYSCORE', key('finish', model), '-inf', precise(tag))
  end
end

-- Offers the heads of a model's lines while its pools have free slots, to the one with the most of them first.
-- Adds {pool, id} to `offers`, for Celery.
-- A wide job at the head waits for its slots; nobody overtakes it, or it might wait for ever.
local function dispatch(model, time, offers)
  local pools = {}
  for _, name in ipairs(pools_of(model)) do
    local live = live_slots(name, time)
    if live > 0 then
      local used = redis.call('HMGET', key('slots', name), 'offered', 'leases')
      pools[#pools + 1] = {
        name = name, live = live, free = live - tonumber(used[1] or 0) - tonumber(used[2] or 0),
      }
    end
  end
  while #offers < MAX_OFFERS_PER_CALL do
    local freest
    for _, pool in ipairs(pools) do
      if pool.free > 0 and not (freest and freest.free >= pool.free) then freest = pool end
    end
    if not freest then break end
    local head = head_of(freest.name, model, freest.live)
    if head and head.job.n <= freest.free then
      offer(head, freest.name, model, time)
      freest.free = freest.free - head.job.n
      offers[#offers + 1] = { freest.name, head.id }
    else
      freest.free = 0 -- For this call: it has nothing to take, or waits for more slots.
    end
  end
end
