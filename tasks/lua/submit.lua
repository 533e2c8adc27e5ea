-- A new job: its record and its place in the line, or nothing.
--
-- Reads:   the idempotency key, the lines' length, the model's virtual time, the owner's last tag
-- Writes:  job, log (none yet), line, indexes, deadlines; then dispatches
-- Answers: {word, detail, offers, with 'created' the time}; word: created, exists, conflict, full, nearly_full (Redis' memory),
--          unknown (no worker ever served this queue) or too_wide
--          detail: the job's id; with 'full' the seconds until a place should be free; with
--          'too_wide' the slots of the widest worker
local id, owner, queue, model, request = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local n, cost, bonus = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local expires_in, timeout = ARGV[13], ARGV[14]
local idempotency_key, body_hash = ARGV[15], ARGV[16]
local max_queued, is_own_model = tonumber(ARGV[17]), ARGV[18] == '1'
local is_seed_drawn = ARGV[19] == '1'

-- A repeated call, by a client that did not see the answer or by redis-py.
local known_since = redis.call('HGET', key('job', id), 'created_at')
if known_since then return { 'created', id, {}, known_since } end
local idempotency = key('idempotency', owner .. ':' .. idempotency_key)
if idempotency_key ~= '' then
  local earlier = redis.call('GET', idempotency)
  if earlier then
    local same = redis.call('HGET', key('job', earlier), 'body_hash') == body_hash
    return { same and 'exists' or 'conflict', earlier, {} }
  end
end

if redis.call('EXISTS', PREFIX .. 'nearly_full') == 1 then return { 'nearly_full', '', {} } end

local function is_known()
  if is_own_model then return true end -- Before its first worker came up, too.
  if queue == 'any:' .. model then return redis.call('HEXISTS', PREFIX .. 'models_since', model) == 1 end
  return redis.call('SISMEMBER', key('pools', model), queue) == 1
end

if not is_known() then return { 'unknown', '', {} } end
local time = now()
local live, widest = slots_of(workers_of(model, queue, time))
-- Where none lives, the one that was seen last; where none ever was, the job waits for one.
if widest == 0 then widest = tonumber(redis.call('HGET', PREFIX .. 'widest', queue) or n) end
if n > widest then return { 'too_wide', tostring(widest), {} } end

-- Where no worker has announced it yet, this web's own engine is known by its first job.
if queue ~= 'any:' .. model then redis.call('SADD', key('pools', model), queue) end
local waiting, queues = 0, pools_of(model)
queues[#queues + 1] = 'any:' .. model
for _, one in ipairs(queues) do
  for _, width in ipairs(widths_of(one)) do waiting = waiting + redis.call('ZCARD', line_of(one, width)) end
end
if waiting >= max_queued then
  local slot_seconds = tonumber(redis.call('HGET', key('stats', model), 'slot_seconds') or 1)
  return { 'full', tostring(math.ceil(slot_seconds / math.max(1, live))), {} }
end

-- Start-time fair queueing: an owner's next job starts, in virtual time, where the last one ends.
local virtual = tonumber(redis.call('GET', key('virtual', model)) or 0)
local tag = math.max(virtual, tonumber(redis.call('ZSCORE', key('finish', model), owner) or 0))
redis.call('ZADD', key('finish', model), precise(tag + cost), owner)
local score = precise(tag - bonus)

local record = key('job', id)
redis.call('HSET', record, 'id', id, 'owner', owner, 'queue', queue, 'model', model,
  'status', 'queued', 'request', request, 'n', n, 'cost', cost, 'tag', precise(tag), 'score', score,
  'created_at', precise(time), 'body_hash', body_hash, 'attempts', '[]', 'fails', 0)
if timeout ~= '' then redis.call('HSET', record, 'timeout', timeout) end
-- Beside the request, which workers of an earlier version must be able to read.
if is_seed_drawn then redis.call('HSET', record, 'seed_drawn', 1) end
if idempotency_key ~= '' then
  redis.call('HSET', record, 'idempotency_key', idempotency_key)
  redis.call('SET', idempotency, id)
end
local job = { owner = owner, queue = queue, model = model, n = n, score = score }
if expires_in ~= '' then
  job.expires_at = time + tonumber(expires_in)
  redis.call('HSET', record, 'expires_at', precise(job.expires_at))
  watch_deadline(job, id)
end
enter_line(job, id)
redis.call('HINCRBY', PREFIX .. 'counts', 'queued', 1)
redis.call('ZADD', key('jobs', owner), precise(time), id)
redis.call('ZADD', key('jobs', owner) .. ':queued', precise(time), id)

local offers = {}
dispatch(model, time, offers)
return { 'created', id, offers, precise(time) }
