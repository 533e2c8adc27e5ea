-- Announces for one lease's time that a worker lives, what it serves and how much of it is in use.
--
-- Needs:   places, workers, dispatch
-- Reads:   what the worker announced before
-- Writes:  what is kept about the worker and its model; perhaps its offers go back in line; then dispatches
-- Arguments:
--   worker: text
--   engine_pool: text
--   model: text
--   slots: number          0 while the worker drains
--   description: text      JSON for /health
--   version: number        of the records that the worker understands
--   max_model_len: text    the longest sequence that the worker takes; empty if it does not say
--   lifeline: text         the channel of its lifeline (see reap.lua), empty for none
--   reasoning_marks: text  how the model marks its reasoning (see tasks/reasoning_marks.py), empty if it writes none
--   divides_outputs: flag  whether the worker divides outputs itself (see tasks/output_parts.py)
-- Answers:
--   ok
write_although_full()
local time = now()
redis.call('ZADD', key('alive', engine_pool), precise(time + LEASE_SECONDS), worker)
-- The worker drains, or was started again with fewer slots or from an earlier release. Its offers may be too much for it.
local function has_less(hash, value) return value < tonumber(redis.call('HGET', key(hash, engine_pool), worker) or 0) end
if has_less('capacity', slots) or has_less('versions', version) then withdraw_offers(engine_pool, worker) end
redis.call('HSET', key('capacity', engine_pool), worker, slots)
redis.call('HSET', PREFIX .. 'workers', worker, description)
redis.call('HSET', key('versions', engine_pool), worker, version)
if max_model_len ~= '' then redis.call('HSET', PREFIX .. 'lengths', model, max_model_len) end
if reasoning_marks ~= '' then
  redis.call('HSET', PREFIX .. 'reasoning_marks', model, reasoning_marks)
else
  redis.call('HDEL', PREFIX .. 'reasoning_marks', model)
end
redis.call(divides_outputs and 'SADD' or 'SREM', PREFIX .. 'divided_models', model)
if lifeline ~= '' then redis.call('HSET', PREFIX .. 'lifelines', worker, lifeline) end
redis.call('SADD', key('pools', model), engine_pool)
remember_widest(model, engine_pool, time)
redis.call('HSETNX', PREFIX .. 'models_since', model, precise(time))
dispatch(model, time)
return answer('ok')
