-- Prepended to every script: the names of the keys and the steps that several transitions share.
--
-- The invariant: a job that has not ended is in exactly one of line:<queue>:<class>, offered:<engine pool> and
-- leases:<engine pool>. Only the functions here and claim.lua move a job between them.
--
-- An engine pool is the workers of one engine on one model: 'vllm:m'. A queue is where a model's jobs wait: for any
-- of its engine pools, 'any:m', or for one of them, 'vllm:m'. A queue has a line for each class of jobs. A class says what
-- a job asks of its worker: slots, which are its width, and the version of the records that it must understand.
-- '2:1' takes two slots and a worker that understands version 1. Fair tags are the model's, so that its lines
-- compare.
--
-- ARGV[1..4] are the same for every script; a script's own arguments begin at ARGV[5].
-- Keys are computed, not declared: the product runs on one Redis, not on a Redis Cluster.
local PREFIX = ARGV[1]
local LEASE_SECONDS = tonumber(ARGV[2])
local RESEND_OFFER_SECONDS = tonumber(ARGV[3])
local RETENTION_SECONDS = tonumber(ARGV[4])

local MAX_OFFERS_PER_CALL = 128
local PACK_AFTER_SECONDS = 10 -- Its readers have read to the end by then, and its worker has the answer.
local SLOT_SECONDS_SMOOTHING = 0.1
local SETTLING_LEASES = 0.5 -- Workers write three times a lease.
-- A job whose workers died so often without a token may be what killed them: it runs alone then.
local ALONE_FROM_FAILS = 2
local ENTRIES_PER_APPEND = 1000 -- Lua's stack takes some thousand arguments.

-- Celery's list for a worker, see tasks/app.py.
local CELERY_QUEUES = PREFIX:gsub(':', '.')

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
    'created_at', 'started_at', 'timeout_at', 'expires_at', 'token', 'place', 'progress', 'model', 'pool',
    'worker', 'taken', 'fails', 'version', 'bytes')
  if not f[1] then return nil end
  return {
    owner = f[1], queue = f[2], status = f[3], n = tonumber(f[4]), score = f[5], cost = tonumber(f[6]),
    created_at = f[7], started_at = tonumber(f[8]), timeout_at = tonumber(f[9]),
    expires_at = tonumber(f[10]), lease_token = f[11], place = f[12], progress = f[13] == '1',
    model = f[14], engine_pool = f[15], worker = f[16], taken = tonumber(f[17]),
    is_alone = (tonumber(f[18]) or 0) >= ALONE_FROM_FAILS, version = tonumber(f[19]),
    bytes = tonumber(f[20]),
  }
end

local function class_of(job) return job.n .. ':' .. job.version end
local function line_of(queue, class) return key('line', queue .. ':' .. class) end

-- The classes that jobs in a queue ever had: {name, width, version}.
local function classes_of(queue)
  local classes = {}
  for i, name in ipairs(redis.call('SMEMBERS', key('classes', queue))) do
    local width, version = name:match('(%d+):(%d+)')
    classes[i] = { name = name, width = tonumber(width), version = tonumber(version) }
  end
  return classes
end

-- Takes a job out of the set that it is in. `place` names it: line, offered or leases.
local function leave_place(job, id)
  if job.place == 'line' then
    redis.call('ZREM', line_of(job.queue, class_of(job)), id)
    return
  end
  redis.call('ZREM', key(job.place, job.engine_pool), id)
  local slots = key('slots', job.engine_pool)
  if redis.call('HINCRBY', slots, job.worker, -job.taken) == 0 then redis.call('HDEL', slots, job.worker) end
end

local function enter_line(job, id)
  redis.call('SADD', key('classes', job.queue), class_of(job))
  redis.call('ZADD', line_of(job.queue, class_of(job)), job.score, id)
  redis.call('HSET', key('job', id), 'place', 'line')
  job.place = 'line'
end

-- `place`: offered or leases, of a worker. A job that runs alone takes all of its slots.
local function enter_engine_pool(job, id, place, engine_pool, worker, score)
  local taken = job.n
  if job.is_alone then
    taken = math.max(taken, tonumber(redis.call('HGET', key('capacity', engine_pool), worker) or 0))
  end
  redis.call('ZADD', key(place, engine_pool), score, id)
  redis.call('HINCRBY', key('slots', engine_pool), worker, taken)
  redis.call('HSET', key('job', id), 'place', place, 'pool', engine_pool, 'worker', worker, 'taken', taken)
  job.place, job.engine_pool, job.worker, job.taken = place, engine_pool, worker, taken
end

-- Takes a job out of a set where its record is missing or damaged: somebody touched the key, or Redis evicted it.
-- Nothing can be done for it; the reaper tells its caller. engine_pool: the set's, if it is one of an engine pool's.
local function drop_dangling(id, set, engine_pool)
  redis.call('ZREM', set, id)
  redis.call('RPUSH', PREFIX .. 'dangling', id)
  if not engine_pool then return end
  -- How many slots it took, and whose, is lost as well.
  redis.call('DEL', key('slots', engine_pool))
  for _, place in ipairs({ 'offered', 'leases' }) do
    for _, other in ipairs(redis.call('ZRANGE', key(place, engine_pool), 0, -1)) do
      local f = redis.call('HMGET', key('job', other), 'worker', 'taken')
      if f[1] then redis.call('HINCRBY', key('slots', engine_pool), f[1], f[2]) end
    end
  end
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
local function begin_attempt(job, id, lease_token, worker, engine_pool, number, time)
  leave_place(job, id)
  enter_engine_pool(job, id, 'leases', engine_pool, worker, precise(time + LEASE_SECONDS))
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

-- An owner gets back in line what a job was charged for and did not use.
local function correct_charge(job, used)
  local finish = key('finish', job.model)
  if redis.call('ZSCORE', finish, job.owner) then
    redis.call('ZINCRBY', finish, math.min(0, used - job.cost), job.owner)
  end
end

-- Ends a job. `code` and `message` are its error, or nil. tokens: how many its choices have; nil where that is not
-- known, and then about as many as entries in the log.
local function end_job(job, id, status, code, message, time, tokens)
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
  end
  correct_charge(job, tokens or redis.call('LLEN', key('log', id)))
  set_status(job, id, job.status, status)
  redis.call('ZADD', PREFIX .. 'ended', precise(time), id)
  redis.call('ZADD', PREFIX .. 'unpacked', precise(time + PACK_AFTER_SECONDS), id)
  append(id, { '["d","' .. status .. '"]' })
end

-- Counts what an owner's records take in memory.
local function add_bytes(owner, bytes)
  if redis.call('HINCRBY', PREFIX .. 'bytes', owner, bytes) <= 0 then redis.call('HDEL', PREFIX .. 'bytes', owner) end
end

-- Forgets an ended job. An idempotency key goes with the last of its jobs.
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

-- A job whose worker is gone goes back with the tag it had, and so to the front of the line.
local function back_to_line(job, id, time, reason)
  leave_place(job, id)
  enter_line(job, id)
  redis.call('HDEL', key('job', id), 'token')
  end_attempt(id, time, reason)
  watch_deadline(job, id)
end

-- Offers that a worker has not claimed go back in line, and Celery's messages about them go.
local function withdraw_offers(engine_pool, worker)
  redis.call('DEL', CELERY_QUEUES .. worker)
  for _, id in ipairs(redis.call('ZRANGE', key('offered', engine_pool), 0, -1)) do
    local job = load_job(id)
    if job and job.worker == worker then
      leave_place(job, id)
      enter_line(job, id)
    end
  end
end

-- Whether Redis has just been started again, or another one took its place. It may lack its last second:
-- what looks unclaimed may run, and its worker is to write before anybody else claims it.
local function is_settling(time)
  local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
  local known = redis.call('HMGET', PREFIX .. 'run', 'id', 'settled_at')
  if known[1] == run then return time < tonumber(known[2]) end
  local settled_at = known[1] and time + SETTLING_LEASES * LEASE_SECONDS or 0
  redis.call('HSET', PREFIX .. 'run', 'id', run, 'settled_at', precise(settled_at))
  redis.call('DEL', PREFIX .. 'lifelines_seen') -- All connections are new.
  return time < settled_at
end

-- The model's engine pools that ever had a worker, or a job of their own.
local function engine_pools_of(model) return redis.call('SMEMBERS', key('pools', model)) end

local function as_table(names_and_values)
  local answer = {}
  for i = 1, #names_and_values, 2 do answer[names_and_values[i]] = tonumber(names_and_values[i + 1]) end
  return answer
end

-- The workers that may take jobs of a queue: they live, and do not drain. version: what they must understand, if given.
local function workers_of(model, queue, time, version)
  local workers = {}
  for _, engine_pool in ipairs(engine_pools_of(model)) do
    if queue == 'any:' .. model or queue == engine_pool then
      local slots = as_table(redis.call('HGETALL', key('capacity', engine_pool)))
      local taken = as_table(redis.call('HGETALL', key('slots', engine_pool)))
      local versions = as_table(redis.call('HGETALL', key('versions', engine_pool)))
      for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('alive', engine_pool), precise(time), '+inf')) do
        local own, understood = slots[name] or 0, versions[name] or 0
        if own > 0 and understood >= (version or 0) then
          workers[#workers + 1] = {
            name = name, engine_pool = engine_pool, slots = own, free = own - (taken[name] or 0), version = understood,
          }
        end
      end
    end
  end
  return workers
end

-- Their slots together, and those of the widest.
local function slots_of(workers)
  local all, widest = 0, 0
  for _, worker in ipairs(workers) do
    all = all + worker.slots
    widest = math.max(widest, worker.slots)
  end
  return all, widest
end

-- Where no worker lives, the one that was seen last decides how wide a job may be.
local function remember_widest(model, engine_pool, time)
  for _, queue in ipairs({ 'any:' .. model, engine_pool }) do
    local _, widest = slots_of(workers_of(model, queue, time))
    if widest > 0 then redis.call('HSET', PREFIX .. 'widest', queue, widest) end
  end
end

-- Takes a worker out of the books.
local function forget_worker(model, engine_pool, worker, time)
  redis.call('ZREM', key('alive', engine_pool), worker)
  for _, hash in ipairs({ key('capacity', engine_pool), key('versions', engine_pool), PREFIX .. 'workers', PREFIX .. 'lifelines' }) do
    redis.call('HDEL', hash, worker)
  end
  redis.call('ZREM', PREFIX .. 'severed', worker)
  remember_widest(model, engine_pool, time)
end

-- The first of the jobs that a worker may take, can hold and understands: {id, score, line, needs}. The others are left
-- to other workers. needs: slots that are to be free. passed: by line, jobs at its head that wait for another worker.
local function head_of(worker, model, passed)
  local head
  for _, queue in ipairs({ 'any:' .. model, worker.engine_pool }) do
    for _, class in ipairs(classes_of(queue)) do
      if class.width <= worker.slots and class.version <= worker.version then
        local line = line_of(queue, class.name)
        local rank = passed[line] or 0
        local first = redis.call('ZRANGE', line, rank, rank, 'WITHSCORES')
        local id, score = first[1], tonumber(first[2])
        if id and not (head and (head.score < score or (head.score == score and head.id < id))) then
          head = { id = id, score = score, needs = class.width, line = line }
        end
      end
    end
  end
  local fails = head and tonumber(redis.call('HGET', key('job', head.id), 'fails'))
  if fails and fails >= ALONE_FROM_FAILS then head.needs = worker.slots end
  return head
end

-- Offers one job. Virtual time follows the tag in service, but never passes what still stands in its line.
local function offer(head, worker, model, time)
  local job = load_job(head.id)
  leave_place(job, head.id)
  enter_engine_pool(job, head.id, 'offered', worker.engine_pool, worker.name, precise(time + RESEND_OFFER_SECONDS))
  local tag = math.min(head.score, tonumber(redis.call('HGET', key('job', head.id), 'tag')))
  local virtual = tonumber(redis.call('GET', key('virtual', model)) or 0)
  if tag > virtual then
    redis.call('SET', key('virtual', model), precise(tag))
    -- An owner whose last tag lies in the past counts as one without a past.
    redis.call('ZREMRANGEBYSCORE', key('finish', model), '-inf', precise(tag))
  end
end

-- Offers the heads of a model's lines while its workers have free slots, to the one with the most of them first.
-- Adds {worker, id} to `offers`, for Celery.
--
-- A job that needs more slots than are free waits for that worker's, and nobody overtakes it there, or it might
-- wait for ever. It is always the worker with the most free slots, which get no fewer meanwhile. Others take
-- what comes next.
local function dispatch(model, time, offers)
  local workers, passed = workers_of(model, 'any:' .. model, time), {}
  while #offers < MAX_OFFERS_PER_CALL do
    local freest
    for _, worker in ipairs(workers) do
      if worker.free > 0 and not (freest and freest.free >= worker.free) then freest = worker end
    end
    if not freest then break end
    local head = head_of(freest, model, passed)
    if head and head.needs <= freest.free then
      if pcall(offer, head, freest, model, time) then
        freest.free = freest.free - head.needs
        offers[#offers + 1] = { freest.name, head.id }
      else
        drop_dangling(head.id, head.line)
      end
    else
      if head then passed[head.line] = (passed[head.line] or 0) + 1 end
      freest.free = 0 -- For this call.
    end
  end
end
