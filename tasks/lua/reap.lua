-- Moves on what nobody else will: leases, offers and deadlines that ran out, records past their time; looks
-- after Redis' memory.
-- Called by every worker and every web process; its cost does not depend on the backlog.
--
-- Arguments: most jobs to move in this call, longest gap between two calls that is believed (seconds)
-- Answers:   {seconds until the next one is due, offers, ended jobs whose log the caller is to pack}
--
-- After a longer gap, or one below zero, Redis was paused, restarted, promoted or its clock set: the
-- leases that ran out meanwhile say nothing about their workers, so every lease gets a fresh term.
local most, longest_gap = tonumber(ARGV[5]), tonumber(ARGV[6])
local MAX_FAILS, MAX_ATTEMPTS = 4, 20
local HIGH_WATER = 0.85
write_although_full()
local time = now()
local offers = {}

local last = tonumber(redis.call('GET', PREFIX .. 'reaped_at') or 0)
redis.call('SET', PREFIX .. 'reaped_at', precise(time))
local believed = time >= last and time - last <= longest_gap
is_settling(time) -- Known from the first call on, should nobody claim anything.

local function due(set)
  return redis.call('ZRANGEBYSCORE', set, '-inf', precise(time), 'LIMIT', 0, most)
end

local function renew_all(pool)
  for _, set in ipairs({ key('leases', pool), key('alive', pool) }) do
    for _, member in ipairs(redis.call('ZRANGE', set, 0, -1)) do
      redis.call('ZADD', set, precise(time + LEASE_SECONDS), member)
    end
  end
end

local function time_is_up(job, id)
  end_job(job, id, 'failed', 'timeout', 'the job ran longer than its timeout', time)
end

local function reap_lease(id)
  local job = load_job(id)
  local record = key('job', id)
  local fails = tonumber(redis.call('HGET', record, 'fails'))
  if not job.progress then fails = redis.call('HINCRBY', record, 'fails', 1) end
  local attempts = #cjson.decode(redis.call('HGET', record, 'attempts'))
  if redis.call('HEXISTS', record, 'cancel_requested') == 1 then
    end_job(job, id, 'cancelled', nil, nil, time)
  elseif job.timeout_at and job.timeout_at <= time then
    time_is_up(job, id)
  elseif fails >= MAX_FAILS or attempts >= MAX_ATTEMPTS then
    end_attempt(id, time, 'lease expired')
    local message = string.format('its worker died in %d of %d attempts without a token', fails, attempts)
    end_job(job, id, 'failed', 'poison', message, time)
  else
    back_to_line(job, id, time, 'lease expired')
  end
end

local function has_takers_elsewhere(job)
  if job.queue ~= 'any:' .. job.model then return false end
  for _, pool in ipairs(pools_of(job.model)) do
    if pool ~= job.pool and live_slots(pool, time) >= job.n then return true end
  end
  return false
end

-- Where nobody is left to hear it, and others might, the job stands in line again. Not otherwise: a worker whose
-- heartbeats come late seems dead for moments, and would find its offers withdrawn.
local function ring_again(id, pool, has_workers)
  local job = load_job(id)
  if has_workers or not has_takers_elsewhere(job) then
    redis.call('ZADD', key('offered', pool), precise(time + RING_AGAIN_SECONDS), id)
    offers[#offers + 1] = { pool, id }
  else
    leave_place(job, id)
    enter_line(job, id)
  end
end

local function reap_deadline(id)
  local job = load_job(id)
  if job.started_at then
    time_is_up(job, id)
  else
    end_job(job, id, 'expired', 'expired', 'the job waited longer than its expires_in', time)
  end
end

local function forget_dead_workers(pool)
  for _, worker in ipairs(due(key('alive', pool))) do
    redis.call('ZREM', key('alive', pool), worker)
    redis.call('HDEL', key('capacity', pool), worker)
    redis.call('HDEL', PREFIX .. 'workers', worker)
  end
end

local models, pools = redis.call('HKEYS', PREFIX .. 'models_since'), {}
for _, model in ipairs(models) do
  for _, pool in ipairs(pools_of(model)) do pools[#pools + 1] = pool end
end
for _, pool in ipairs(pools) do
  if not believed then renew_all(pool) end
  for _, id in ipairs(due(key('leases', pool))) do reap_lease(id) end
  forget_dead_workers(pool)
end
-- Deadlines before offers: no message for a job that ends here.
for _, id in ipairs(due(PREFIX .. 'deadlines')) do reap_deadline(id) end
for _, pool in ipairs(pools) do
  local has_workers = redis.call('ZCARD', key('alive', pool)) > 0
  for _, id in ipairs(due(key('offered', pool))) do ring_again(id, pool, has_workers) end
end
for _, model in ipairs(models) do dispatch(model, time, offers) end

-- Submits stop while there is still room for the jobs that run to end.
local memory = redis.call('INFO', 'memory')
local used, limit = tonumber(memory:match('used_memory:(%d+)')), tonumber(memory:match('maxmemory:(%d+)'))
if limit > 0 and used > HIGH_WATER * limit then
  redis.call('SET', PREFIX .. 'nearly_full', 1)
else
  redis.call('DEL', PREFIX .. 'nearly_full')
end

local past = precise(time - RETENTION_SECONDS)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'ended', '-inf', past, 'LIMIT', 0, most)) do
  purge(load_job(id), id)
end

-- Given to one caller; to another one later where that one did not come to it.
local to_pack = due(PREFIX .. 'unpacked')
for _, id in ipairs(to_pack) do
  redis.call('ZADD', PREFIX .. 'unpacked', precise(time + PACK_AFTER_SECONDS), id)
end

local next_due = time + LEASE_SECONDS
local function sooner(set, delay)
  local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if head[2] then next_due = math.min(next_due, tonumber(head[2]) + delay) end
end
for _, pool in ipairs(pools) do
  sooner(key('leases', pool), 0)
  sooner(key('offered', pool), 0)
end
sooner(PREFIX .. 'deadlines', 0)
sooner(PREFIX .. 'ended', RETENTION_SECONDS)
sooner(PREFIX .. 'unpacked', 0)
return { precise(math.max(0, next_due - time)), offers, to_pack }
