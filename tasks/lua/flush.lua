-- Writes one step of a worker's whole batch: for each job it checks the lease token, appends and publishes entries, renews
-- the lease or ends the job, and reads whether the job is to be cancelled or its time is up.
--
-- Needs:   lifecycle, dispatch
-- Reads:   the records, the length of the logs
-- Writes:  logs, leases, records, the end of jobs; then dispatches
-- Arguments:
--   writes: json    for each job [id, lease_token, base, prompt_tokens, entries, outcome]. An array, because objects
--                   cost Redis some per cent more with 32 jobs.
--                   base: length of the log that the entries follow
--                   outcome: absent while the job runs on; otherwise {status, code, message, tokens}. code and message
--                   are its error, if there is one; tokens says how many its choices have, if that is known
-- Answers:
--   ok         results: for each job {status, length of its log}. The status is
--                ok       written, and the lease is renewed
--                cancel   the same, and the job is to be cancelled
--                timeout  the same, and the job's time is up
--                ended    the job has ended under this lease token
--                fenced   nothing was written: the worker has lost the job
--                behind   nothing was written, because Redis lost entries: send again from the length given
write_although_full()
local time = now()
local ended_models = {}

-- Returns the entries that the log lacks. A repeated call brings entries that are in the log already.
local function missing(entries, base, length)
  if base == length then return entries end
  local found = {}
  for i, entry in ipairs(entries) do
    if base + i > length then found[#found + 1] = entry end
  end
  return found
end

local function write(job, id, length, prompt_tokens, entries, outcome)
  if #entries > 0 then
    append(id, entries)
    redis.call('HSETNX', key('job', id), 'first_token_at', precise(time))
    redis.call('HSET', key('job', id), 'prompt_tokens', prompt_tokens, 'progress', 1, 'fails', 0)
    length = length + #entries
  end
  if outcome then
    redis.call('HSET', key('job', id), 'prompt_tokens', prompt_tokens)
    end_job(job, id, outcome.status, outcome.code, outcome.message, time, outcome.tokens)
    ended_models[job.model] = true
    return { 'ended', length + 1 }
  end
  redis.call('ZADD', key('leases', job.engine_pool), precise(time + LEASE_SECONDS), id)
  if redis.call('HEXISTS', key('job', id), 'cancel_requested') == 1 then return { 'cancel', length } end
  if job.timeout_at and job.timeout_at <= time then return { 'timeout', length } end
  return { 'ok', length }
end

local results = {}
for i, one in ipairs(writes) do
  local id, lease_token, base, prompt_tokens, entries, outcome = unpack(one)
  local job = load_job(id)
  local length = redis.call('LLEN', key('log', id))
  if not job or job.lease_token ~= lease_token then
    results[i] = { 'fenced', length }
  elseif job.place == 'ended' then
    results[i] = { 'ended', length }
  elseif length < base then
    results[i] = { 'behind', length }
  else
    results[i] = write(job, id, length, prompt_tokens, missing(entries, base, length), outcome)
  end
end

for model in pairs(ended_models) do dispatch(model, time) end
return answer('ok', { results = results })
