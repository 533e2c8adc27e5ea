-- New jobs of one owner for one queue: their records and places in line. All of them, or nothing.
--
-- Reads:   the idempotency key, the lines' length, the model's virtual time, the owner's last tag
-- Writes:  jobs, logs (none yet), line, indexes, deadlines, the idempotency key; then dispatches
-- Arguments: owner, queue, model, idempotency key ('' for none), hash of the request's body, most jobs that may
--            wait, 1 if the model is this server's own, share of Redis' memory that an owner may take;
--            then for each job: id, request, version of its record, n, most tokens of a choice, head start in
--            tokens, expires_in and timeout ('' for none), 1 if the seed was drawn, the start of a long prompt ('' of a
--            short one)
-- Answers: {word, detail, offers, with 'created' the time}; word: created, exists, conflict, full, over_share,
--          nearly_full (Redis' memory), unknown (no worker ever served this queue) or too_wide
--          detail: with 'created' and 'exists' the jobs' ids, with commas; with 'full' the seconds until a place
--          should be free; with 'too_wide' the slots of the widest worker
local FIRST_JOB, ARGUMENTS_PER_JOB = 13, 10
local RECORD_BYTES = 2500 -- Beside the request: indexes, the attempts and the short log of a usual job.
local UNKNOWN_LENGTH = 8192 -- Of a model that no worker announced yet.
local owner, queue, model = ARGV[5], ARGV[6], ARGV[7]
local idempotency_key, body_hash = ARGV[8], ARGV[9]
local max_queued, is_own_model, share = tonumber(ARGV[10]), ARGV[11] == '1', tonumber(ARGV[12])

local jobs, ids, widest_job, bytes = {}, {}, 0, 0
for i = FIRST_JOB, #ARGV, ARGUMENTS_PER_JOB do
  local job = {
    id = ARGV[i], owner = owner, queue = queue, model = model, request = ARGV[i + 1], version = tonumber(ARGV[i + 2]),
    n = tonumber(ARGV[i + 3]), max_tokens = tonumber(ARGV[i + 4]), bonus = tonumber(ARGV[i + 5]),
    expires_in = ARGV[i + 6], timeout = ARGV[i + 7], is_seed_drawn = ARGV[i + 8] == '1',
    prompt_start = ARGV[i + 9],
    bytes = #ARGV[i + 1] + RECORD_BYTES,
  }
  jobs[#jobs + 1], ids[#ids + 1] = job, job.id
  widest_job, bytes = math.max(widest_job, job.n), bytes + job.bytes
end
ids = table.concat(ids, ',')

-- A repeated call, by a client that did not see the answer or by redis-py.
local known_since = redis.call('HGET', key('job', jobs[1].id), 'created_at')
if known_since then return { 'created', ids, {}, known_since } end
local idempotency = key('idempotency', owner .. ':' .. idempotency_key)
if idempotency_key ~= '' then
  local earlier = redis.call('HMGET', idempotency, 'body_hash', 'jobs')
  if earlier[1] then return { earlier[1] == body_hash and 'exists' or 'conflict', earlier[2], {} } end
end

if redis.call('EXISTS', PREFIX .. 'nearly_full') == 1 then return { 'nearly_full', '', {} } end
local most_bytes = share * tonumber(redis.call('GET', PREFIX .. 'maxmemory') or 0)
local own_bytes = tonumber(redis.call('HGET', PREFIX .. 'bytes', owner) or 0)
if most_bytes > 0 and own_bytes + bytes > most_bytes then return { 'over_share', '', {} } end

local function is_known()
  if is_own_model then return true end -- Before its first worker came up, too.
  if queue == 'any:' .. model then return redis.call('HEXISTS', PREFIX .. 'models_since', model) == 1 end
  return redis.call('SISMEMBER', key('pools', model), queue) == 1
end

if not is_known() then return { 'unknown', '', {} } end
local time = now()
local live, widest = slots_of(workers_of(model, queue, time))
-- Where none lives, the one that was seen last; where none ever was, the job waits for one.
if widest == 0 then widest = tonumber(redis.call('HGET', PREFIX .. 'widest', queue) or widest_job) end
if widest_job > widest then return { 'too_wide', tostring(widest), {} } end

-- Where no worker has announced it yet, this web's own engine is known by its first job.
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
  return { 'full', tostring(math.ceil(slot_seconds * #jobs / math.max(1, live))), {} }
end

local length = tonumber(redis.call('HGET', PREFIX .. 'lengths', model) or UNKNOWN_LENGTH)

local function create(job, created_at)
  local id, record = job.id, key('job', job.id)
  -- Start-time fair queueing: an owner's next job starts, in virtual time, where the last one ends. What the model's
  -- length does not allow is not charged for.
  local cost = job.n * math.min(job.max_tokens, length)
  local virtual = tonumber(redis.call('GET', key('virtual', model)) or 0)
  local tag = math.max(virtual, tonumber(redis.call('ZSCORE', key('finish', model), owner) or 0))
  redis.call('ZADD', key('finish', model), precise(tag + cost), owner)
  job.score = precise(tag - job.bonus)

  redis.call('HSET', record, 'id', id, 'owner', owner, 'queue', queue, 'model', model, 'status', 'queued',
    'request', job.request, 'version', job.version, 'n', job.n, 'cost', cost, 'tag', precise(tag),
    'score', job.score, 'created_at', created_at, 'attempts', '[]', 'fails', 0, 'bytes', job.bytes)
  if job.timeout ~= '' then redis.call('HSET', record, 'timeout', job.timeout) end
  if job.is_seed_drawn then redis.call('HSET', record, 'seed_drawn', 1) end
  -- For lists: they need not read all of the prompt.
  if job.prompt_start ~= '' then redis.call('HSET', record, 'prompt_start', job.prompt_start) end
  if idempotency_key ~= '' then redis.call('HSET', record, 'idempotency_key', idempotency_key) end
  if job.expires_in ~= '' then
    job.expires_at = time + tonumber(job.expires_in)
    redis.call('HSET', record, 'expires_at', precise(job.expires_at))
    watch_deadline(job, id)
  end
  enter_line(job, id)
  redis.call('ZADD', key('jobs', owner), created_at, id)
  redis.call('ZADD', key('jobs', owner) .. ':queued', created_at, id)
end

-- A microsecond apart, because lists of jobs use this time as their cursor. A job takes longer than that to create, so
-- the next call's time is a later one.
for i, job in ipairs(jobs) do create(job, precise(time + (i - 1) / 1000000)) end
redis.call('HINCRBY', PREFIX .. 'counts', 'queued', #jobs)
add_bytes(owner, bytes)
if idempotency_key ~= '' then
  redis.call('HSET', idempotency, 'body_hash', body_hash, 'jobs', ids, 'left', #jobs)
end

local offers = {}
dispatch(model, time, offers)
return { 'created', ids, offers, precise(time) }
