-- Notices that a worker's process has ended, long before its leases run out.
--
-- A worker's lifeline is a channel that only its process subscribes to, and nothing is ever published on it. However the
-- process ends, the kernel closes its connection, and Redis counts no subscriber any more. The worker's leases then end at
-- once.
--
-- A paused process keeps its connection. A process whose connection broke reconnects, and until then its writes show that
-- it lives. If the guess is wrong nevertheless, the worker's lease token is refused, as after any lost lease. A lifeline
-- counts as missing only if it was seen before, since Redis was started.
--
-- Needs: places, workers

local DEAD_AFTER_SECONDS = 0.2 -- By then, a living worker has reconnected or has written.

-- Returns the jobs that a worker holds, and the time of its last write.
local function held_by(worker, engine_pool)
  local held = {}
  local last_write = tonumber(redis.call('ZSCORE', key('alive', engine_pool), worker)) - LEASE_SECONDS
  local leases = redis.call('ZRANGE', key('leases', engine_pool), 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    if redis.call('HGET', key('job', leases[i]), 'worker') == worker then
      held[#held + 1] = leases[i]
      last_write = math.max(last_write, tonumber(leases[i + 1]) - LEASE_SECONDS)
    end
  end
  return held, last_write
end

local function end_leases_of_dead(worker, held, model, engine_pool, time)
  for _, id in ipairs(held) do redis.call('ZADD', key('leases', engine_pool), precise(time), id) end
  withdraw_offers(engine_pool, worker)
  forget_worker(model, engine_pool, worker, time)
end

-- Looks at the lifelines of an engine pool's workers. Appends the names of those that died to `dead`.
local function watch_lifelines(model, engine_pool, time, dead)
  local workers = redis.call('ZRANGE', key('alive', engine_pool), 0, -1)
  for _, worker in ipairs(workers) do
    local lifeline = redis.call('HGET', PREFIX .. 'lifelines', worker)
    if not lifeline then
      -- The worker has no lifeline.
    elseif redis.call('PUBSUB', 'NUMSUB', lifeline)[2] > 0 then
      redis.call('SADD', PREFIX .. 'lifelines_seen', lifeline)
      redis.call('ZREM', PREFIX .. 'severed', worker)
    elseif redis.call('SISMEMBER', PREFIX .. 'lifelines_seen', lifeline) == 1 then
      local since = tonumber(redis.call('ZSCORE', PREFIX .. 'severed', worker) or time)
      local held, last_write = held_by(worker, engine_pool)
      since = math.max(since, last_write)
      redis.call('ZADD', PREFIX .. 'severed', precise(since), worker)
      if time - since >= DEAD_AFTER_SECONDS then
        end_leases_of_dead(worker, held, model, engine_pool, time)
        redis.call('SREM', PREFIX .. 'lifelines_seen', lifeline)
        dead[#dead + 1] = worker
      end
    end
  end
end
