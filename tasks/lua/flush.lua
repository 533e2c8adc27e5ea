-- One step of a worker's whole batch: fence, append, publish, renew, finish; reads cancels and deadlines.
--
-- For each job, in ARGV from 5 on:
--   id, lease token, base (log length that the entries follow), prompt tokens, number of entries, entries,
--   final status ('' while it runs on), error code ('' for none), error message, tokens of its choices at the end
-- Answers: {offers, {status, log length}, ...}, a pair per job:
--   ok       written, lease renewed
--   cancel   the same, and the job is to be cancelled
--   timeout  the same, and its time is up
--   ended    the job has ended under this lease token
--   fenced   nothing written: the job is no longer this worker's
--   behind   nothing written: Redis lost entries; send again from the length given
write_although_full()
local time = now()
local answer, ended_models, position = {}, {}, 5

local function take()
  position = position + 1
  return ARGV[position - 1]
end

local function fresh_entries(length, base, count)
  local entries = {}
  for i = 1, count do
    local entry = take()
    -- What a repeated call brings again stands in the log already.
    if base + i > length then entries[#entries + 1] = entry end
  end
  return entries
end

local function flush(job, id, base, prompt_tokens, entries, length, status, code, message, tokens)
  if #entries > 0 then
    append(id, entries)
    redis.call('HSETNX', key('job', id), 'first_token_at', precise(time))
    redis.call('HSET', key('job', id), 'prompt_tokens', prompt_tokens, 'progress', 1, 'fails', 0)
    length = length + #entries
  end
  if status ~= '' then
    redis.call('HSET', key('job', id), 'prompt_tokens', prompt_tokens)
    end_job(job, id, status, code ~= '' and code or nil, message, time, tokens)
    ended_models[job.model] = true
    return { 'ended', length + 1 }
  end
  redis.call('ZADD', key('leases', job.engine_pool), precise(time + LEASE_SECONDS), id)
  if redis.call('HEXISTS', key('job', id), 'cancel_requested') == 1 then return { 'cancel', length } end
  if job.timeout_at and job.timeout_at <= time then return { 'timeout', length } end
  return { 'ok', length }
end

while position <= #ARGV do
  local id, lease_token, base, prompt_tokens = take(), take(), tonumber(take()), take()
  local count = tonumber(take())
  local job = load_job(id)
  local length = redis.call('LLEN', key('log', id))
  local entries = fresh_entries(length, base, count)
  local status, code, message, tokens = take(), take(), take(), tonumber(take())
  local answer_of_job
  if not job or job.lease_token ~= lease_token then
    answer_of_job = { 'fenced', length }
  elseif job.place == 'ended' then
    answer_of_job = { 'ended', length }
  elseif length < base then
    answer_of_job = { 'behind', length }
  else
    answer_of_job = flush(job, id, base, prompt_tokens, entries, length, status, code, message, tokens)
  end
  answer[#answer + 1] = answer_of_job
end

local offers = {}
for model in pairs(ended_models) do dispatch(model, time, offers) end
table.insert(answer, 1, offers)
return answer
