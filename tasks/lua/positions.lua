-- Reads where waiting jobs stand in line.
--
-- Needs:   places, settling, workers
-- Reads:   the records, the lines, the workers, the model's average, Redis' run
-- Arguments:
--   ids: texts
-- Answers:
--   ok    positions: for each job {
--           jobs ahead of it, -1 if it is on offer already,
--           live slots of the workers that may take it,
--           slots of the widest of them,
--           average slot seconds of a job, empty while unknown,
--           1 if workers live that would take it if they understood its record}
--         is_settling: 1 if Redis has just come back, and nobody claims yet
local time = now()

-- Counts the jobs ahead in all lines that the same workers take from. A job that no living worker can hold does not count.
local function ahead(id, job, widest)
  local own = line_of(job.queue, class_of(job))
  local rank = redis.call('ZRANK', own, id)
  if not rank then return -1 end
  local queues = { 'any:' .. job.model, job.queue }
  if job.queue == queues[1] then
    queues = engine_pools_of(job.model)
    queues[#queues + 1] = job.queue
  end
  for _, queue in ipairs(queues) do
    for _, class in ipairs(classes_of(queue)) do
      local line = line_of(queue, class.name)
      if line ~= own and class.version <= job.version and (widest == 0 or class.width <= widest) then
        rank = rank + redis.call('ZCOUNT', line, '-inf', '(' .. job.score)
      end
    end
  end
  return rank
end

local positions = {}
for i, id in ipairs(ids) do
  local job = load_job(id)
  if job then
    local live, widest = slots_of(workers_of(job.model, job.queue, time, job.version))
    local slot_seconds = redis.call('HGET', key('stats', job.model), 'slot_seconds') or ''
    local is_too_new = live == 0 and #workers_of(job.model, job.queue, time) > 0
    positions[i] = { ahead(id, job, widest), live, widest, slot_seconds, is_too_new and 1 or 0 }
  else
    positions[i] = { -1, 0, 0, '', 0 }
  end
end
return answer('ok', { positions = positions, is_settling = time < settled_at(time) and 1 or 0 })
