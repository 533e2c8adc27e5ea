-- A worker says that it is alive, what it serves and how much of it is in use.
--
-- Arguments: worker, queue, model, slots (0 while it drains), description (JSON)
-- Answers:   the offers
local worker, queue, model, slots, description = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
write_although_full()
local time = now()
redis.call('ZADD', key('alive', queue), precise(time + LEASE_SECONDS), worker)
redis.call('HSET', key('capacity', queue), worker, slots)
redis.call('HSET', PREFIX .. 'workers', worker, description)
redis.call('SADD', PREFIX .. 'queues', queue)
local largest = tonumber(redis.call('HGET', PREFIX .. 'models', model) or 0)
if slots > largest then redis.call('HSET', PREFIX .. 'models', model, slots) end
redis.call('HSETNX', PREFIX .. 'models_since', model, precise(time))
local offers = {}
dispatch(queue, time, offers)
return offers
