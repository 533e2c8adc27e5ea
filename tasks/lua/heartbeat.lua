-- A worker says that it is alive, what it serves and how much of it is in use.
--
-- Arguments: worker, pool, model, slots (0 while it drains), description (JSON)
-- Answers:   the offers
local worker, pool, model, slots, description = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
write_although_full()
local time = now()
redis.call('ZADD', key('alive', pool), precise(time + LEASE_SECONDS), worker)
redis.call('HSET', key('capacity', pool), worker, slots)
redis.call('HSET', PREFIX .. 'workers', worker, description)
redis.call('SADD', key('pools', model), pool)
for _, queue in ipairs({ 'any:' .. model, pool }) do
  local widest = tonumber(redis.call('HGET', PREFIX .. 'widest', queue) or 0)
  if slots > widest then redis.call('HSET', PREFIX .. 'widest', queue, slots) end
end
redis.call('HSETNX', PREFIX .. 'models_since', model, precise(time))
local offers = {}
dispatch(model, time, offers)
return offers
