-- A worker stops: it leaves the books at once instead of with its last heartbeat.
--
-- Arguments: worker, queue
local worker, queue = ARGV[5], ARGV[6]
redis.call('ZREM', key('alive', queue), worker)
redis.call('HDEL', key('capacity', queue), worker)
redis.call('HDEL', PREFIX .. 'workers', worker)
return 1
