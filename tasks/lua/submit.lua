-- A new job: its record and its place in the line, or nothing.
--
-- Reads:   the idempotency key, the lines' length, the model's virtual time, the owner's last tag
-- Writes:  job, log (none yet), line, indexes, deadlines; then dispatches
-- Answers: {word, detail, offers}; word: created, exists, conflict, full, nearly_full (Redis' memory),
--          unknown (no worker ever served this queue) or too_wide
--          detail: the job's id; with 'full' the seconds until a place should be free; with
--          'too_wide' the model's slots
local id, owner, queue, model, request = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local n, cost, bonus = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local expires_in, timeout = ARGV[13], ARGV[14]
local idempotency_key, body_hash = ARGV[15], ARGV[16]
local max_queued, own_model_slots = tonumber(ARGV[17]), tonumber(ARGV[18])
local is_seed_drawn = ARGV[19] == '1'

-- A repeated call, by a client that did not see the answer or by redis-py.
if redis.call('EXISTS', key('job', id)) == 1 then return { 'created', id, {} } end
local idempotency = key('idempotency', owner .. ':' .. idempotency_key)
if idempotency_key ~= '' then
  local earlier = redis.call('GET', idempotency)
  if earlier then
    local same = redis.call('HGET', key('job', earlier), 'body_hash') == body_hash
    return { same and 'exists' or 'conflict', earlier, {} }
  end
end

if redis.call('EXISTS', PREFIX .. 'nearly_full') == 1 then return { 'nearly_full', '', {} } end

-- The web's own model is known before its first worker came up.
local slots = tonumber(redis.call('HGET', PREFIX .. 'widest', queue) or own_model_slots)
if slots == 0 then return { 'unknown', '', {} } end
if n > slots then return { 'too_wide', tostring(slots), {} } end

local time = now()
-- Where no worker has announced it yet, this web's own engine is known by its first job.
if queue ~= 'any:' .. model then redis.call('SADD', key('pools', model), queue) end
local pools = pools_of(model)
local waiting = redis.call('ZCARD', key('line', 'any:' .. model))
for _, pool in ipairs(pools) do waiting = waiting + redis.call('ZCARD', key('line', pool)) end
if waiting >= max_queued then
  local slot_seconds = tonumber(redis.call('HGET', key('stats', model), 'slot_seconds') or 1)
  local live = 0
  for _, pool in ipairs(pools) do live = live + live_slots(pool, time) end
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
local job = { owner = owner, queue = queue, model = model, score = score }
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
return { 'created', id, offers }
