-- Handles everything that is due and that nobody else handles: leases, offers and deadlines that ran out, and records past
-- their retention. Also watches the workers' lifelines and Redis' memory.
--
-- Every worker and every web process calls it. Its cost does not depend on the backlog.
--
-- Needs:   lifecycle, lifelines, settling, dispatch
-- Reads:   the sets ordered by time, the lifelines' subscribers, Redis' memory
-- Writes:  whatever is due; then dispatches
-- Arguments:
--   most: number           jobs of one kind to move in this call, at most
--   longest_gap: number    seconds between two calls after which the leases' ends are still believed
-- Answers:
--   ok    due_in: seconds until the next call is due
--         to_pack: ended jobs whose log the caller is to pack
--         dangling: jobs whose record was missing or damaged
--         dead: workers that died
--
-- After a longer gap between two calls, or a negative one, Redis was paused, restarted or promoted, or its clock was set.
-- Leases that ran out meanwhile say nothing about their workers, so every lease is renewed.
local MAX_FAILS, MAX_ATTEMPTS = 4, 20
local HIGH_WATER = 0.85
local WATCH_SECONDS = 0.05 -- The time between two looks at the lifelines, whichever processes look.
local LONGEST_TURN_SECONDS = 1 -- Callers come at least this often anyway, so no turn is later.
write_although_full()
local time = now()
local dead = {}

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

-- Calls `move` for each job that is due in a set.
local function move_on(set, engine_pool, move)
  for _, id in ipairs(due(set)) do
    local job = load_job(id)
    local is_done = job and pcall(move, job, id)
    if not is_done then drop_dangling(id, set, engine_pool) end
  end
end

local function reap_lease(job, id)
  local record = key('job', id)
  local fails = tonumber(redis.call('HGET', record, 'fails'))
  if not job.progress then fails = redis.call('HINCRBY', record, 'fails', 1) end
  -- An attempt that was preempted says nothing about the job.
  local preemptions = tonumber(redis.call('HGET', record, 'preemptions')) or 0
  local attempts = #cjson.decode(redis.call('HGET', record, 'attempts')) - preemptions
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

-- The message was lost, or its worker is slow. A living worker keeps the offer: otherwise a job would never be claimed
-- where claims take longer than this. A worker also keeps it if nobody else could take the job, because a worker whose
-- heartbeats come late seems dead for moments.
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
    local message = 'the job waited longer than its expires_in'
    if #workers_of(job.model, job.queue, time) == 0 then
      message = message .. '; no worker that could run it was alive'
    end
    end_job(job, id, 'expired', 'expired', message, time)
  end
end

local function forget_dead_workers(model, engine_pool)
  for _, worker in ipairs(due(key('alive', engine_pool))) do forget_worker(model, engine_pool, worker, time) end
end

-- Stops submits while there is still room for the jobs that run to end.
local function watch_memory()
  local memory = redis.call('INFO', 'memory')
  local used, limit = tonumber(memory:match('used_memory:(%d+)')), tonumber(memory:match('maxmemory:(%d+)'))
  redis.call('SET', PREFIX .. 'maxmemory', limit)
  if limit > 0 and used > HIGH_WATER * limit then
    redis.call('SET', PREFIX .. 'nearly_full', 1)
  else
    redis.call('DEL', PREFIX .. 'nearly_full')
  end
end

local function forget_old_jobs()
  local past = precise(time - RETENTION_SECONDS)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'ended', '-inf', past, 'LIMIT', 0, most)) do
    local job = load_job(id)
    if job then purge(job, id) else drop_dangling(id, PREFIX .. 'ended') end
  end
end

-- Each job goes to one caller. If that caller does not pack it, another one gets it later.
local function take_jobs_to_pack()
  local ids = due(PREFIX .. 'unpacked')
  for _, id in ipairs(ids) do
    redis.call('ZADD', PREFIX .. 'unpacked', precise(time + PACK_AFTER_SECONDS), id)
  end
  return ids
end

-- Returns when the next call is due.
local function next_call(engine_pools)
  local next_due = time + LEASE_SECONDS
  local function look_at(set, delay)
    local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
    if head[2] then next_due = math.min(next_due, tonumber(head[2]) + delay) end
  end
  local has_leases = false
  for _, engine_pool in ipairs(engine_pools) do
    has_leases = has_leases or redis.call('ZCARD', key('leases', engine_pool)) > 0
    look_at(key('leases', engine_pool), 0)
    look_at(key('offered', engine_pool), 0)
  end
  look_at(PREFIX .. 'deadlines', 0)
  look_at(PREFIX .. 'ended', RETENTION_SECONDS)
  look_at(PREFIX .. 'unpacked', 0)
  -- Callers take turns, so that somebody looks at the lifelines every WATCH_SECONDS, however many callers there are. A
  -- caller that has to come back earlier takes no turn: nobody would come at that time.
  if has_leases then
    local last_turn = tonumber(redis.call('GET', PREFIX .. 'watched_at') or 0)
    local turn = math.min(math.max(time, last_turn) + WATCH_SECONDS, time + LONGEST_TURN_SECONDS)
    if turn < next_due then
      redis.call('SET', PREFIX .. 'watched_at', precise(turn))
      next_due = turn
    end
  end
  return next_due
end

local models, engine_pools = redis.call('HKEYS', PREFIX .. 'models_since'), {}
for _, model in ipairs(models) do
  for _, engine_pool in ipairs(engine_pools_of(model)) do
    engine_pools[#engine_pools + 1] = engine_pool
    if not believed then renew_all(engine_pool) end
    if believed and is_settled then watch_lifelines(model, engine_pool, time, dead) end
    move_on(key('leases', engine_pool), engine_pool, reap_lease)
    forget_dead_workers(model, engine_pool)
  end
end
-- Deadlines come before offers, so that no message is sent for a job that ends here.
move_on(PREFIX .. 'deadlines', nil, reap_deadline)
for _, engine_pool in ipairs(engine_pools) do move_on(key('offered', engine_pool), engine_pool, resend_offer) end
for _, model in ipairs(models) do dispatch(model, time) end

watch_memory()
forget_old_jobs()
local to_pack = take_jobs_to_pack()
local due_in = precise(math.max(0, next_call(engine_pools) - time))
local dangling = redis.call('LRANGE', PREFIX .. 'dangling', 0, -1)
redis.call('DEL', PREFIX .. 'dangling')
return answer('ok', { due_in = due_in, to_pack = to_pack, dangling = dangling, dead = dead })
