-- Writes what a worker's whole batch has gained since the last call: for each job it checks the lease token, appends and
-- publishes entries, and ends the job if it has an outcome. It also reads whether the job is to be cancelled, its time is up,
-- or it is to give its slots back.
--
-- A worker calls it up to two hundred times a second, so it makes three calls of Redis for a job that just goes on:
-- HMGET, RPUSH and PUBLISH. Whatever needs more is rare.
--
-- Needs:   lifecycle, dispatch
-- Reads:   the records
-- Writes:  logs, the worker's sign of life, leases if asked to, records, the end of jobs; then dispatches
-- Arguments:
--   renew: flag      whether each job gets a whole lease again
--   roster: json     two values for each job, one after the other: id, lease token. They are the same for many calls
--   spans: json      two numbers for each job: base, which is the length of the log that its entries follow, and how many
--                    entries it has
--   details: json    for each job that has any: {at, prompt_tokens, outcome}. at: the job's number in the roster, from 1.
--                    prompt_tokens: absent if the record has them. outcome: absent while the job runs on; otherwise
--                    {status, code, message, tokens}. code and message are its error, if there is one; tokens says how
--                    many its choices have, if that is known
--   entries: texts   the entries of all jobs, in the order of the roster
-- Answers:
--   ok         exceptions: {at, status, length of the log} of each job that does not just go on. The status is
--                cancel   the entries are written, and the job is to be cancelled
--                timeout  the entries are written, and the job's time is up
--                preempt  the entries are written, and the job is to be released: its slots are for another job
--                ended    the job has ended under this lease token
--                fenced   nothing was written: the worker has lost the job
--                behind   nothing was written, because Redis lost entries: send again from the length given
write_although_full()
local time = now()
local ended_models = {}
local details_of = {}
for _, one in ipairs(details) do details_of[one.at] = one end

-- Appends entries that follow the first `base` of a log, and publishes them. Entries that the log has already, from a call
-- whose answer was lost, are left out. Returns the length of the log; and true if that is shorter than `base`, so nothing
-- was appended.
local function append_after(base, id, first, last)
  local count = last - first + 1
  if count == 0 then
    local length = redis.call('LLEN', key('log', id))
    return length, length < base
  end
  local length = redis.call('RPUSH', key('log', id), unpack(entries, first, last))
  if length == base + count then
    publish(id, base + 1, entries, first, last)
    return length, false
  end
  redis.call('LTRIM', key('log', id), 0, -1 - count)
  length = length - count
  if length < base then return length, true end
  local missing = {}
  for i = first + length - base, last do missing[#missing + 1] = entries[i] end
  if #missing > 0 then append(id, missing) end
  return length + #missing, false
end

-- Notes in the record that an attempt has made progress, with its first entries.
local function note_progress(id, prompt_tokens)
  local record = key('job', id)
  redis.call('HSETNX', record, 'first_token_at', precise(time))
  redis.call('HSET', record, 'progress', 1, 'fails', 0)
  if prompt_tokens then redis.call('HSET', record, 'prompt_tokens', prompt_tokens) end
end

local function finish(id, outcome, prompt_tokens)
  if prompt_tokens then redis.call('HSET', key('job', id), 'prompt_tokens', prompt_tokens) end
  local job = load_job(id)
  end_job(job, id, outcome.status, outcome.code, outcome.message, time, outcome.tokens)
  ended_models[job.model] = true
end

-- Shows that the worker lives: others would otherwise take a broken connection of its for its death.
local function show_life(id)
  local f = redis.call('HMGET', key('job', id), 'pool', 'worker')
  redis.call('ZADD', key('alive', f[1]), 'XX', precise(time + LEASE_SECONDS), f[2])
end

-- Returns the status of one job, which is nil if it just goes on, and the length of its log.
local function write(at, id, lease_token, base, first, last)
  local f = redis.call('HMGET', key('job', id), 'token', 'place', 'progress', 'cancel_requested', 'timeout_at',
    'preempt_requested')
  if f[1] ~= lease_token then return 'fenced', redis.call('LLEN', key('log', id)) end
  if f[2] == 'ended' then return 'ended', redis.call('LLEN', key('log', id)) end
  local length, is_behind = append_after(base, id, first, last)
  if is_behind then return 'behind', length end
  local own = details_of[at] or {}
  if f[3] ~= '1' and last >= first then note_progress(id, own.prompt_tokens) end
  if own.outcome then
    finish(id, own.outcome, own.prompt_tokens)
    return 'ended', length + 1
  end
  if renew then
    redis.call('ZADD', key('leases', redis.call('HGET', key('job', id), 'pool')), precise(time + LEASE_SECONDS), id)
  end
  if f[4] then return 'cancel', length end
  if f[5] and tonumber(f[5]) <= time then return 'timeout', length end
  if f[6] == lease_token then return 'preempt', length end
  return nil, length
end

local exceptions = {}
local first, living = 1, nil
for i = 1, #roster, 2 do
  local at, id, last = (i + 1) / 2, roster[i], first + spans[i + 1] - 1
  local status, length = write(at, id, roster[i + 1], spans[i], first, last)
  if status then exceptions[#exceptions + 1] = { at, status, length } end
  if status ~= 'fenced' and status ~= 'ended' then living = id end
  first = last + 1
end
if living then show_life(living) end

for model in pairs(ended_models) do dispatch(model, time) end
return answer('ok', { exceptions = exceptions })
