-- Accepts new jobs of one owner for one queue: their records and their places in line. All of them, or none.
--
-- Needs:   records, places, workers, dispatch
-- Reads:   the idempotency key, the lengths of the lines, the model's virtual time, the owner's last tags
-- Writes:  records, line, indexes, deadlines, the owner's bytes, the idempotency key; then dispatches
-- Arguments:
--   owner: text
--   queue: text
--   model: text
--   idempotency_key: text    empty for none
--   body_hash: text          of the request's body
--   max_queued: number       jobs that may wait
--   is_own_model: flag       the caller's settings name this model
--   trusts_settings: flag    these settings are those of the workers, which may not have started yet
--   memory_share: number     of Redis' memory that an owner may take
--   jobs: json               for each job {id, version (of its record), n, max_tokens (of a choice), bonus (head start in
--                            tokens), expires_in, timeout (both absent for none), is_seed_drawn, prompt_start (of a
--                            long prompt; absent for a short one), origin (JSON; absent for none), keep_seconds (absent
--                            for the usual retention)}
--   requests: texts          for each job, as JSON
-- Answers:
--   created       ids (with commas), created_at
--   exists        ids: of the jobs that were accepted under this idempotency key before
--   conflict      the idempotency key was used with another body
--   full          retry_after: seconds until a place should be free
--   over_share    the owner's jobs take too much memory
--   nearly_full   Redis' memory is nearly full
--   unknown       no worker ever served this queue. models: JSON, the models that any worker ever announced
--   too_wide      widest: slots of the widest worker
local RECORD_BYTES = 2500 -- The memory of a usual job without its request: indexes, attempts and a short log.
local UNKNOWN_LENGTH = 8192 -- The assumed length of a model that no worker has announced yet.

local ids, widest_job, bytes = {}, 0, 0
for i, job in ipairs(jobs) do
  job.owner, job.queue, job.model, job.request = owner, queue, model, requests[i]
  job.bytes = #requests[i] + #(job.origin or '') + RECORD_BYTES
  ids[i] = job.id
  widest_job, bytes = math.max(widest_job, job.n), bytes + job.bytes
end
ids = table.concat(ids, ',')

-- The call is repeated, by a client that did not see the answer or by redis-py.
local known_since = redis.call('HGET', key('job', jobs[1].id), 'created_at')
if known_since then return answer('created', { ids = ids, created_at = known_since }) end
local idempotency = key('idempotency', owner .. ':' .. idempotency_key)
if idempotency_key ~= '' then
  local earlier = redis.call('HMGET', idempotency, 'body_hash', 'jobs')
  if earlier[1] and earlier[1] ~= body_hash then return answer('conflict') end
  if earlier[1] then return answer('exists', { ids = earlier[2] }) end
end

if redis.call('EXISTS', PREFIX .. 'nearly_full') == 1 then return answer('nearly_full') end
local most_bytes = memory_share * tonumber(redis.call('GET', PREFIX .. 'maxmemory') or 0)
local own_bytes = tonumber(redis.call('HGET', PREFIX .. 'bytes', owner) or 0)
if most_bytes > 0 and own_bytes + bytes > most_bytes then return answer('over_share') end

local function is_known()
  -- Even before its first worker has started. Settings that are not the workers' are believed only while no worker says
  -- anything else.
  if is_own_model and (trusts_settings or redis.call('HLEN', PREFIX .. 'models_since') == 0) then return true end
  if queue == 'any:' .. model then return redis.call('HEXISTS', PREFIX .. 'models_since', model) == 1 end
  return redis.call('SISMEMBER', key('pools', model), queue) == 1
end

if not is_known() then
  return answer('unknown', { models = cjson.encode(redis.call('HKEYS', PREFIX .. 'models_since')) })
end
local time = now()
local live, widest = slots_of(workers_of(model, queue, time))
-- While no worker lives, the one that was seen last counts. If there never was one, the job waits for the first.
if widest == 0 then widest = tonumber(redis.call('HGET', PREFIX .. 'widest', queue) or widest_job) end
if widest_job > widest then return answer('too_wide', { widest = widest }) end

-- This web process' own engine becomes known by its first job, if no worker has announced it yet.
if queue ~= 'any:' .. model then redis.call('SADD', key('pools', model), queue) end
local waiting, queues = 0, engine_pools_of(model)
queues[#queues + 1] = 'any:' .. model
for _, one in ipairs(queues) do
  for _, class in ipairs(classes_of(one)) do
    waiting = waiting + redis.call('ZCARD', line_of(one, class.name))
  end
end
if waiting + #jobs > max_queued then
  local slot_seconds = tonumber(redis.call('HGET', key('stats', model), 'slot_seconds') or 1)
  return answer('full', { retry_after = math.ceil(slot_seconds * #jobs / math.max(1, live)) })
end

local length = tonumber(redis.call('HGET', PREFIX .. 'lengths', model) or UNKNOWN_LENGTH)

-- Start-time fair queueing: an owner's next job starts, in virtual time, where the last one ends. Tokens beyond the
-- model's length are not charged. A job of higher priority starts where the owner's last one of higher priority ends, so
-- the owner's own low jobs do not delay it. low_part: what lies between there and the end of the last job.
local function tag_of(cost, low)
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

local function create(job, created_at)
  local id, record = job.id, key('job', job.id)
  local cost = job.n * math.min(job.max_tokens, length)
  local tag = tag_of(cost, job.bonus < 0)
  job.score = precise(tag - job.bonus)

  redis.call('HSET', record, 'id', id, 'owner', owner, 'queue', queue, 'model', model, 'status', 'queued',
    'request', job.request, 'version', job.version, 'n', job.n, 'cost', cost, 'tag', precise(tag),
    'score', job.score, 'created_at', created_at, 'attempts', '[]', 'fails', 0, 'bytes', job.bytes)
  if job.timeout then redis.call('HSET', record, 'timeout', job.timeout) end
  if job.is_seed_drawn then redis.call('HSET', record, 'seed_drawn', 1) end
  -- For lists: they need not read all of the prompt.
  if job.prompt_start then redis.call('HSET', record, 'prompt_start', job.prompt_start) end
  if job.origin then redis.call('HSET', record, 'origin', job.origin) end
  if job.keep_seconds then redis.call('HSET', record, 'keep_seconds', job.keep_seconds) end
  if idempotency_key ~= '' then redis.call('HSET', record, 'idempotency_key', idempotency_key) end
  if job.expires_in then
    job.expires_at = time + job.expires_in
    redis.call('HSET', record, 'expires_at', precise(job.expires_at))
    watch_deadline(job, id)
  end
  enter_line(job, id)
  redis.call('ZADD', key('jobs', owner), created_at, id)
  redis.call('ZADD', key('jobs', owner) .. ':queued', created_at, id)
end

-- A microsecond apart, because lists of jobs use this time as their cursor. A job takes longer than that to create, so the
-- next call's time is a later one.
for i, job in ipairs(jobs) do create(job, precise(time + (i - 1) / 1000000)) end
redis.call('HINCRBY', PREFIX .. 'counts', 'queued', #jobs)
add_bytes(owner, bytes)
if idempotency_key ~= '' then
  redis.call('HSET', idempotency, 'body_hash', body_hash, 'jobs', ids, 'left', #jobs)
end

dispatch(model, time)
return answer('created', { ids = ids, created_at = precise(time) })
