-- Reads the jobs that wait although a worker could run them, as 'job worker' texts. Each script that frees a slot
-- dispatches, so there should never be one. Also reads the jobs on offer, as 'offered job worker'.
--
-- Needs:   dispatch
local time, found = now(), {}
for _, model in ipairs(redis.call('HKEYS', PREFIX .. 'models_since')) do
  for _, worker in ipairs(workers_of(model, 'any:' .. model, time)) do
    local head = head_of(worker, model, {})
    if head and head.needs <= worker.free then found[#found + 1] = head.id .. ' ' .. worker.name end
  end
  for _, engine_pool in ipairs(engine_pools_of(model)) do
    for _, id in ipairs(redis.call('ZRANGE', key('offered', engine_pool), 0, -1)) do
      found[#found + 1] = 'offered ' .. id .. ' ' .. redis.call('HGET', key('job', id), 'worker')
    end
  end
end
return found
