-- A worker says that it is alive, what it serves and how much of it is in use.
--
-- Arguments: worker, pool, model, slots (0 while it drains), description (JSON), its lifeline (a channel, see
--            reap.lua; workers of earlier versions have none)
-- Answers:   the offers
local worker, pool, model, slots, description = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
write_although_full()
local time = now()
redis.call('ZADD', key('alive', pool), precise(time + LEASE_SECONDS), worker)
-- It drains, or was started again with fewer slots: what it was offered may be too much for it.
if slots < tonumber(redis.call('HGET', key('capacity', pool), worker) or 0) then withdraw_offers(pool, worker) end
redis.call('HSET', key('capacity', pool), worker, slots)
redis.call('HSET', PREFIX .. 'workers', worker, description)
if ARGV[10] then redis.call('HSET', PREFIX .. 'lifelines', worker, ARGV[10]) end
redis.call('SADD', key('pools', model), pool)
remember_widest(model, pool, time)
redis.call('HSETNX', PREFIX .. 'models_since', model, precise(time))
local offers = {}
dispatch(model, time, offers)
return offers
