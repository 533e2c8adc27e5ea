-- Moves on what nobody else will: leases, offers and deadlines that ran out, records past their time; looks
-- after Redis' memory.
-- Called by every worker and every web process; its cost does not depend on the backlog.
--
-- Arguments: most jobs to move in this call, longest gap between two calls that is believed (seconds)
-- Answers:   {seconds until the next one is due, offers, ended jobs whose log the caller is to pack, jobs whose
--            record was missing, workers that died}
--
-- After a longer gap, or one below zero, Redis was paused, restarted, promoted or its clock set: the
-- leases that ran out meanwhile say nothing about their workers, so every lease gets a fresh term.
local most, longest_gap = tonumber(ARGV[5]), tonumber(ARGV[6])
local MAX_FAILS, MAX_ATTEMPTS = 4, 20
local HIGH_WATER = 0.85
local WATCH_SECONDS = 0.05 -- Between two looks at the lifelines, by whichever processes.
local DEAD_AFTER_SECONDS = 0.2 -- A connection that broke is made again by then, or its worker has written.
write_although_full()
local time = now()
local offers, dead = {}, {}

local last = tonumber(redis.call('GET', PREFIX .. 'reaped_at') or 0)
redis.call('SET', PREFIX .. 'reaped_at', precise(time))
local believed = time >= last and time - last <= longest_gap
local is_settled = not is_settling(time)

local function due(set)
  return redis.call('ZRANGEBYSCORE', set, '-inf', precise(time), 'LIMIT', 0, most)
end

local function renew_all(engine_pool)
  for _, set in ipairs({ key('leases', engine_pool), key('alive', engine_pool) }) do
    for _, member in ipairs(redis.call('ZRANGE', set, 0, -1)) do
      redis.call('ZADD', set, precise(time + LEASE_SECONDS), member)
    end
  end
end

local function time_is_up(job, id)
  end_job(job, id, 'failed', 'timeout', 'the job ran longer than its timeout', time)
end

-- For each job that is due in a set.
local function move_on(set, engine_pool, how)
  for _, id in ipairs(due(set)) do
    local job = load_job(id)
    local is_done = job and pcall(how, job, id)
    if not is_done then drop_dangling(id, set, engine_pool) end
  end
end

local function reap_lease(job, id)
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
  for _, worker in ipairs(workers_of(job.model, job.queue, time)) do
    if worker.name ~= job.worker and worker.slots >= job.n then return true end
  end
  return false
end

-- The message may be lost, or its worker slow. While that lives it keeps the offer: taken away, a job would never be
-- claimed where claims take longer than this. It keeps it, too, where nobody else could take the job: a worker
-- whose heartbeats come late seems dead for moments.
local function resend_offer(job, id)
  if redis.call('ZSCORE', key('alive', job.engine_pool), job.worker) or not has_takers_elsewhere(job) then
    redis.call('ZADD', key('offered', job.engine_pool), precise(time + RESEND_OFFER_SECONDS), id)
    offers[#offers + 1] = { job.worker, id }
  else
    leave_place(job, id)
    enter_line(job, id)
  end
end

local function reap_deadline(job, id)
  if job.started_at then
    time_is_up(job, id)
  else
    end_job(job, id, 'expired', 'expired', 'the job waited longer than its expires_in', time)
  end
end

local function forget_dead_workers(model, engine_pool)
  for _, worker in ipairs(due(key('alive', engine_pool))) do forget_worker(model, engine_pool, worker, time) end
end

-- The jobs that a worker holds, and the time of its last write.
local function held_by(worker, engine_pool)
  local held = {}
  local last_write = tonumber(redis.call('ZSCORE', key('alive', engine_pool), worker)) - LEASE_SECONDS
  local leases = redis.call('ZRANGE', key('leases', engine_pool), 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    if redis.call('HGET', key('job', leases[i]), 'worker') == worker then
      held[#held + 1] = leases[i]
      last_write = math.max(last_write, tonumber(leases[i + 1]) - LEASE_SECONDS)
    end
  end
  return held, last_write
end

-- A worker's lifeline is a channel that it alone subscribes to and that nothing is ever sent to. The kernel closes
-- the connection when the process ends, however it ends, and Redis counts no subscriber any more. So the leases
-- of that worker end now, and not with their term.
--
-- A process that stands still keeps its connection. One whose connection broke makes it again, and until then
-- its writes speak for it. Should the guess be wrong all the same, the worker's lease token is refused, as after
-- any lost lease. What was never seen, or not since Redis was started, is not missed.
local function watch(model, engine_pool)
  local workers = redis.call('ZRANGE', key('alive', engine_pool), 0, -1)
  for _, worker in ipairs(workers) do
    local lifeline = redis.call('HGET', PREFIX .. 'lifelines', worker)
    if not lifeline then
      -- It has none.
    elseif redis.call('PUBSUB', 'NUMSUB', lifeline)[2] > 0 then
      redis.call('SADD', PREFIX .. 'lifelines_seen', lifeline)
      redis.call('ZREM', PREFIX .. 'severed', worker)
    elseif redis.call('SISMEMBER', PREFIX .. 'lifelines_seen', lifeline) == 1 then
      local since = tonumber(redis.call('ZSCORE', PREFIX .. 'severed', worker) or time)
      local held, last_write = held_by(worker, engine_pool)
      since = math.max(since, last_write)
      redis.call('ZADD', PREFIX .. 'severed', precise(since), worker)
      if time - since >= DEAD_AFTER_SECONDS then
        for _, id in ipairs(held) do redis.call('ZADD', key('leases', engine_pool), precise(time), id) end
        withdraw_offers(engine_pool, worker)
        forget_worker(model, engine_pool, worker, time)
        redis.call('SREM', PREFIX .. 'lifelines_seen', lifeline)
        dead[#dead + 1] = worker
      end
    end
  end
end

local models, engine_pools = redis.call('HKEYS', PREFIX .. 'models_since'), {}
for _, model in ipairs(models) do
  for _, engine_pool in ipairs(engine_pools_of(model)) do
    engine_pools[#engine_pools + 1] = engine_pool
    if not believed then renew_all(engine_pool) end
    if believed and is_settled then watch(model, engine_pool) end
    move_on(key('leases', engine_pool), engine_pool, reap_lease)
    forget_dead_workers(model, engine_pool)
  end
end
-- Deadlines before offers: no message for a job that ends here.
move_on(PREFIX .. 'deadlines', nil, reap_deadline)
for _, engine_pool in ipairs(engine_pools) do move_on(key('offered', engine_pool), engine_pool, resend_offer) end
for _, model in ipairs(models) do dispatch(model, time, offers) end

-- Submits stop while there is still room for the jobs that run to end.
local memory = redis.call('INFO', 'memory')
local used, limit = tonumber(memory:match('used_memory:(%d+)')), tonumber(memory:match('maxmemory:(%d+)'))
redis.call('SET', PREFIX .. 'maxmemory', limit)
if limit > 0 and used > HIGH_WATER * limit then
  redis.call('SET', PREFIX .. 'nearly_full', 1)
else
  redis.call('DEL', PREFIX .. 'nearly_full')
end

local past = precise(time - RETENTION_SECONDS)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'ended', '-inf', past, 'LIMIT', 0, most)) do
  local job = load_job(id)
  if job then purge(job, id) else drop_dangling(id, PREFIX .. 'ended') end
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
local is_watching = false
for _, engine_pool in ipairs(engine_pools) do
  is_watching = is_watching or redis.call('ZCARD', key('leases', engine_pool)) > 0
  sooner(key('leases', engine_pool), 0)
  sooner(key('offered', engine_pool), 0)
end
sooner(PREFIX .. 'deadlines', 0)
sooner(PREFIX .. 'ended', RETENTION_SECONDS)
sooner(PREFIX .. 'unpacked', 0)
-- Callers take turns, so that however many there are somebody looks every WATCH_SECONDS.
if is_watching then
  local last_turn = tonumber(redis.call('GET', PREFIX .. 'watched_at') or 0)
  local turn = math.min(math.max(time, last_turn) + WATCH_SECONDS, time + LEASE_SECONDS)
  redis.call('SET', PREFIX .. 'watched_at', precise(turn))
  next_due = math.min(next_due, turn)
end
local dangling = redis.call('LRANGE', PREFIX .. 'dangling', 0, -1)
redis.call('DEL', PREFIX .. 'dangling')
return { precise(math.max(0, next_due - time)), offers, to_pack, dangling, dead }
