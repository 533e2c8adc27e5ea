-- Where a job is until it has ended: in exactly one of line:<queue>:<class>, offered:<engine pool> and
-- leases:<engine pool>. Only the functions here move it between them.
--
-- An engine pool is the workers of one engine on one model: 'vllm:m'. A queue is where a model's jobs wait: for any of its
-- engine pools ('any:m'), or for one of them ('vllm:m'). A queue has a line for each class of jobs. A class says what a
-- job needs from its worker: its width, which is the number of slots that it takes, and the version of the records that
-- the worker must understand. '2:1' takes two slots and a worker that understands version 1. Fair tags belong to the
-- model, so the lines of all its queues can be compared.
--
-- Needs: records

-- Celery's list for a worker, see tasks/app.py.
local CELERY_QUEUES = PREFIX:gsub(':', '.')

local function class_of(job) return job.n .. ':' .. job.version end
local function line_of(queue, class) return key('line', queue .. ':' .. class) end

-- Returns whether a job, {id, score}, comes before another one in line.
local function comes_before(one, other)
  return one.score < other.score or (one.score == other.score and one.id < other.id)
end

-- Returns the classes that jobs in a queue ever had: {name, width, version}.
local function classes_of(queue)
  local classes = {}
  for i, name in ipairs(redis.call('SMEMBERS', key('classes', queue))) do
    local width, version = name:match('(%d+):(%d+)')
    classes[i] = { name = name, width = tonumber(width), version = tonumber(version) }
  end
  return classes
end

-- Removes a job that stops running from the running jobs of priority low, and from those that are to give their slots back.
local function forget_running_low(id, engine_pool)
  redis.call('HDEL', key('low', engine_pool), id)
  redis.call('HDEL', key('yielding', engine_pool), id)
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
  if job.place == 'leases' and job.is_low then forget_running_low(id, job.engine_pool) end
end

local function enter_line(job, id)
  redis.call('SADD', key('classes', job.queue), class_of(job))
  redis.call('ZADD', line_of(job.queue, class_of(job)), job.score, id)
  redis.call('HSET', key('job', id), 'place', 'line')
  job.place = 'line'
end

-- Gives a job to a worker. `place`: offered or leases. A job that runs alone takes all slots of the worker.
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

-- Takes a job out of a set if its record is missing or damaged, because somebody changed the key or Redis evicted it. The
-- job cannot be saved, and the reaper reports it to its caller. engine_pool: the set's, if the set belongs to one.
local function drop_dangling(id, set, engine_pool)
  redis.call('ZREM', set, id)
  redis.call('RPUSH', PREFIX .. 'dangling', id)
  if not engine_pool then return end
  forget_running_low(id, engine_pool)
  -- The record also said which slots the job took, so the slots are counted again.
  redis.call('DEL', key('slots', engine_pool))
  for _, place in ipairs({ 'offered', 'leases' }) do
    for _, other in ipairs(redis.call('ZRANGE', key(place, engine_pool), 0, -1)) do
      local f = redis.call('HMGET', key('job', other), 'worker', 'taken')
      if f[1] then redis.call('HINCRBY', key('slots', engine_pool), f[1], f[2]) end
    end
  end
end

-- Lets the reaper watch the deadline of a waiting job. While a job runs, its worker does that.
local function watch_deadline(job, id)
  local deadline = job.expires_at
  if job.started_at then deadline = job.timeout_at end
  if deadline then redis.call('ZADD', PREFIX .. 'deadlines', precise(deadline), id) end
end

-- Puts a job back in line after its worker gave it up or died. It keeps its tag, so it comes to the front of the line.
local function back_to_line(job, id, time, reason)
  leave_place(job, id)
  enter_line(job, id)
  redis.call('HDEL', key('job', id), 'token')
  end_attempt(id, time, reason)
  watch_deadline(job, id)
end

-- Puts the offers that a worker has not claimed back in line, and deletes Celery's messages about them.
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
