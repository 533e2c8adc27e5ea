-- Accepts new jobs of one owner for one queue: says why they are refused, or stores them with their places in line.
--
-- `call` has owner, queue, model, max_queued, is_own_model, trusts_settings and memory_share, as submit.lua takes them, and
-- `jobs`: for each job what submit.lua takes, with its `request`.
--
-- Needs: records, places, workers

local RECORD_BYTES = 2500 -- The memory of a usual job without its request: indexes, attempts and a short log.
local DIVIDED_SINCE_VERSION = 2 -- As in tasks/output_parts.py.
local UNKNOWN_LENGTH = 8192 -- The assumed length of a model that no worker has announced yet.

-- Completes the jobs. Returns their ids.
local function complete_jobs(call, requests)
  local ids = {}
  call.widest_job, call.bytes = 0, 0
  for i, job in ipairs(call.jobs) do
    job.owner, job.queue, job.model, job.request = call.owner, call.queue, call.model, requests[i]
    job.bytes = #requests[i] + #(job.origin or '') + RECORD_BYTES
    ids[i] = job.id
    call.widest_job, call.bytes = math.max(call.widest_job, job.n), call.bytes + job.bytes
  end
  return ids
end

-- Returns whether jobs for the model are accepted, even before its first worker has started.
local function is_known_model(call)
  -- Settings that are not the workers' are believed only while no worker says anything else.
  local nobody_announced = redis.call('HLEN', PREFIX .. 'models_since') == 0
  if call.is_own_model and (call.trusts_settings or nobody_announced) then return true end
  if call.queue == 'any:' .. call.model then
    return redis.call('HEXISTS', PREFIX .. 'models_since', call.model) == 1
  end
  return redis.call('SISMEMBER', key('pools', call.model), call.queue) == 1
end

-- Returns how many jobs of a model wait.
local function waiting_jobs(model)
  local waiting, queues = 0, engine_pools_of(model)
  queues[#queues + 1] = 'any:' .. model
  for _, one in ipairs(queues) do
    for _, class in ipairs(classes_of(one)) do
      waiting = waiting + redis.call('ZCARD', line_of(one, class.name))
    end
  end
  return waiting
end

-- Returns the status and the fields of a refusal, or nil if the jobs may be stored.
local function refusal(call, time)
  local memory = memory_refusal(call.owner, call.bytes, call.memory_share)
  if memory then return memory end
  if not is_known_model(call) then
    return 'unknown', { models = cjson.encode(redis.call('HKEYS', PREFIX .. 'models_since')) }
  end
  local live, widest = slots_of(workers_of(call.model, call.queue, time))
  -- While no worker lives, the one that was seen last counts. If there never was one, the job waits for the first.
  if widest == 0 then widest = tonumber(redis.call('HGET', PREFIX .. 'widest', call.queue) or call.widest_job) end
  if call.widest_job > widest then return 'too_wide', { widest = widest } end

  if waiting_jobs(call.model) + #call.jobs > call.max_queued then
    local slot_seconds = tonumber(redis.call('HGET', key('stats', call.model), 'slot_seconds') or 1)
    return 'full', { retry_after = math.ceil(slot_seconds * #call.jobs / math.max(1, live)) }
  end
end

-- Start-time fair queueing: an owner's next job starts, in virtual time, where the last one ends. Tokens beyond the
-- model's length are not charged. A job of higher priority starts where the owner's last one of higher priority ends, so
-- the owner's own low jobs do not delay it. low_part: what lies between there and the end of the last job.
local function tag_of(call, cost, low)
  local model, owner = call.model, call.owner
  local virtual = tonumber(redis.call('GET', key('virtual', model)) or 0)
  local finish = math.max(virtual, tonumber(redis.call('ZSCORE', key('finish', model), owner) or 0))
  local low_part = tonumber(redis.call('HGET', key('low_part', model), owner) or 0)
  local higher = math.max(virtual, finish - math.max(0, low_part))
  local tag = low and finish or higher
  redis.call('ZADD', key('finish', model), precise(finish + cost), owner)
  if low or low_part ~= 0 then
    local left = low and finish + cost - higher or finish - higher
    redis.call('HSET', key('low_part', model), owner, precise(left))
  end
  return tag
end

-- Notes in a new job how reasoning is divided from its answer, as a worker has announced it. It stays as it is now,
-- because what clients see is made from the record and the log alone. marks: false for none. is_divided: a worker divides.
local function note_division(job, marks, is_divided)
  if not job.has_reasoning then return end
  if is_divided then
    job.is_divided = 1
    job.version = math.max(job.version, DIVIDED_SINCE_VERSION)
  elseif marks then
    job.reasoning_marks = marks
    job.version = math.max(job.version, cjson.decode(marks).version)
  end
end

local function create(call, job, created_at, length, time)
  local id, record = job.id, key('job', job.id)
  local cost = job.n * math.min(job.max_tokens, length)
  local tag = tag_of(call, cost, job.bonus < 0)
  job.score = precise(tag - job.bonus)

  redis.call('HSET', record, 'id', id, 'owner', job.owner, 'queue', job.queue, 'model', job.model, 'status', 'queued',
    'request', job.request, 'version', job.version, 'n', job.n, 'cost', cost, 'tag', precise(tag),
    'score', job.score, 'created_at', created_at, 'attempts', '[]', 'fails', 0, 'bytes', job.bytes)
  if job.timeout then redis.call('HSET', record, 'timeout', job.timeout) end
  if job.is_seed_drawn then redis.call('HSET', record, 'seed_drawn', 1) end
  -- For lists: they need not read all of the prompt.
  if job.prompt_start then redis.call('HSET', record, 'prompt_start', job.prompt_start) end
  if job.origin then redis.call('HSET', record, 'origin', job.origin) end
  if job.keep_seconds then redis.call('HSET', record, 'keep_seconds', job.keep_seconds) end
  if job.reasoning_marks then redis.call('HSET', record, 'reasoning_marks', job.reasoning_marks) end
  if job.is_divided then redis.call('HSET', record, 'is_divided', 1) end
  if call.idempotency_key then redis.call('HSET', record, 'idempotency_key', call.idempotency_key) end
  if job.expires_in then
    job.expires_at = time + job.expires_in
    redis.call('HSET', record, 'expires_at', precise(job.expires_at))
    watch_deadline(job, id)
  end
  enter_line(job, id)
  redis.call('ZADD', key('jobs', job.owner), created_at, id)
  redis.call('ZADD', key('jobs', job.owner) .. ':queued', created_at, id)
end

-- Stores the jobs.
local function store_jobs(call, time)
  -- This web process' own engine becomes known by its first job, if no worker has announced it yet.
  if call.queue ~= 'any:' .. call.model then redis.call('SADD', key('pools', call.model), call.queue) end
  local length = tonumber(redis.call('HGET', PREFIX .. 'lengths', call.model) or UNKNOWN_LENGTH)
  local marks = redis.call('HGET', PREFIX .. 'reasoning_marks', call.model)
  local is_divided = redis.call('SISMEMBER', PREFIX .. 'divided_models', call.model) == 1
  for _, job in ipairs(call.jobs) do note_division(job, marks, is_divided) end
  -- A microsecond apart, because lists of jobs use this time as their cursor. A job takes longer than that to create, so
  -- the next call's time is a later one.
  for i, job in ipairs(call.jobs) do create(call, job, precise(time + (i - 1) / 1000000), length, time) end
  redis.call('HINCRBY', PREFIX .. 'counts', 'queued', #call.jobs)
  add_bytes(call.owner, call.bytes)
end
