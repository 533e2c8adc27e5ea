-- The workers that announced themselves: which ones live, with how many slots.

-- Returns the model's engine pools that ever had a worker, or a job of their own.
local function engine_pools_of(model) return redis.call('SMEMBERS', key('pools', model)) end

local function as_table(names_and_values)
  local found = {}
  for i = 1, #names_and_values, 2 do found[names_and_values[i]] = tonumber(names_and_values[i + 1]) end
  return found
end

-- Returns the workers that may take jobs of a queue: they live and do not drain. version: what they must understand, or
-- nil.
local function workers_of(model, queue, time, version)
  local workers = {}
  for _, engine_pool in ipairs(engine_pools_of(model)) do
    if queue == 'any:' .. model or queue == engine_pool then
      local slots = as_table(redis.call('HGETALL', key('capacity', engine_pool)))
      local taken = as_table(redis.call('HGETALL', key('slots', engine_pool)))
      local versions = as_table(redis.call('HGETALL', key('versions', engine_pool)))
      for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('alive', engine_pool), precise(time), '+inf')) do
        local own, understood = slots[name] or 0, versions[name] or 0
        if own > 0 and understood >= (version or 0) then
          workers[#workers + 1] = {
            name = name, engine_pool = engine_pool, slots = own, free = own - (taken[name] or 0),
            version = understood,
          }
        end
      end
    end
  end
  return workers
end

-- Returns the sum of the workers' slots, and the slots of the widest worker.
local function slots_of(workers)
  local all, widest = 0, 0
  for _, worker in ipairs(workers) do
    all = all + worker.slots
    widest = math.max(widest, worker.slots)
  end
  return all, widest
end

-- While no worker lives, the one that was seen last decides how wide a job may be.
local function remember_widest(model, engine_pool, time)
  for _, queue in ipairs({ 'any:' .. model, engine_pool }) do
    local _, widest = slots_of(workers_of(model, queue, time))
    if widest > 0 then redis.call('HSET', PREFIX .. 'widest', queue, widest) end
  end
end

-- Removes all that is kept about a worker. `severed`: since when a worker's lifeline has been missing.
local function forget_worker(model, engine_pool, worker, time)
  redis.call('ZREM', key('alive', engine_pool), worker)
  redis.call('HDEL', key('capacity', engine_pool), worker)
  redis.call('HDEL', key('versions', engine_pool), worker)
  redis.call('HDEL', PREFIX .. 'workers', worker)
  redis.call('HDEL', PREFIX .. 'lifelines', worker)
  redis.call('ZREM', PREFIX .. 'severed', worker)
  remember_widest(model, engine_pool, time)
end
