-- A worker stops: it leaves the books at once instead of with its last heartbeat.
--
-- Arguments: worker, pool
local worker, pool = ARGV[5], ARGV[6]
redis.call('ZREM', key('alive', pool), worker)
redis.call('HDEL', key('capacity', pool), worker)
redis.call('HDEL', PREFIX .. 'workers', worker)
return 1
