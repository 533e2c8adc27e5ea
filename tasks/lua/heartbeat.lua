-- A worker says that it is alive, what it serves and how much of it is in use.
--
-- Arguments: worker, engine pool, model, slots (0 while it drains), description (JSON), the version of the records that it
--            understands, the longest sequence that it takes ('' if it does not say), its lifeline (a channel, see
--            reap.lua; '' for none)
-- Answers:   the offers
local worker, engine_pool, model, slots, description = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local version, length, lifeline = tonumber(ARGV[10]), ARGV[11], ARGV[12]
write_although_full()
local time = now()
redis.call('ZADD', key('alive', engine_pool), precise(time + LEASE_SECONDS), worker)
-- It drains, or was started again with fewer slots or of an earlier release: what it was offered may be too much for it.
local function has_less(hash, value) return value < tonumber(redis.call('HGET', key(hash, engine_pool), worker) or 0) end
if has_less('capacity', slots) or has_less('versions', version) then withdraw_offers(engine_pool, worker) end
redis.call('HSET', key('capacity', engine_pool), worker, slots)
redis.call('HSET', PREFIX .. 'workers', worker, description)
redis.call('HSET', key('versions', engine_pool), worker, version)
if length ~= '' then redis.call('HSET', PREFIX .. 'lengths', model, length) end
if lifeline ~= '' then redis.call('HSET', PREFIX .. 'lifelines', worker, lifeline) end
redis.call('SADD', key('pools', model), engine_pool)
remember_widest(model, engine_pool, time)
redis.call('HSETNX', PREFIX .. 'models_since', model, precise(time))
local offers = {}
dispatch(model, time, offers)
return offers
