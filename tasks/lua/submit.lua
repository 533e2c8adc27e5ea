-- Accepts new jobs of one owner for one queue: their records and their places in line. All of them, or none.
--
-- Needs:   accepting, dispatch
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
--                            for the usual retention), has_reasoning (its API divides reasoning from the answer; absent
--                            if not)}
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
local call = {
  owner = owner, queue = queue, model = model, max_queued = max_queued, is_own_model = is_own_model,
  trusts_settings = trusts_settings, memory_share = memory_share, jobs = jobs,
  idempotency_key = idempotency_key ~= '' and idempotency_key or nil,
}
local ids = table.concat(complete_jobs(call, requests), ',')

-- The call is repeated, by a client that did not see the answer or by redis-py.
local known_since = redis.call('HGET', key('job', jobs[1].id), 'created_at')
if known_since then return answer('created', { ids = ids, created_at = known_since }) end
local idempotency = key('idempotency', owner .. ':' .. idempotency_key)
if idempotency_key ~= '' then
  local earlier = redis.call('HMGET', idempotency, 'body_hash', 'jobs')
  if earlier[1] and earlier[1] ~= body_hash then return answer('conflict') end
  if earlier[1] then return answer('exists', { ids = earlier[2] }) end
end

local time = now()
local refused, why = refusal(call, time)
if refused then return answer(refused, why) end
store_jobs(call, time)
if idempotency_key ~= '' then
  redis.call('HSET', idempotency, 'body_hash', body_hash, 'jobs', ids, 'left', #jobs)
end

dispatch(model, time)
return answer('created', { ids = ids, created_at = precise(time) })
