-- Says where a waiting job stands in line.
--
-- Needs: places, workers

-- Counts the jobs ahead in all lines that the same workers take from. A job that no living worker can hold does not count.
local function jobs_ahead(id, job, widest)
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

-- Returns {jobs ahead of it, -1 if it is on offer already; live slots of the workers that may take it; slots of the widest of
-- them; average slot seconds of a job, empty while unknown; 1 if workers live that would take it if they understood its
-- record}. Returns an empty table for a job that does not wait.
local function standing_of(id, time)
  local place = redis.call('HGET', key('job', id), 'place')
  if place ~= 'line' and place ~= 'offered' then return {} end
  local job = load_job(id)
  local live, widest = slots_of(workers_of(job.model, job.queue, time, job.version))
  local slot_seconds = redis.call('HGET', key('stats', job.model), 'slot_seconds') or ''
  local is_too_new = live == 0 and #workers_of(job.model, job.queue, time) > 0
  return { jobs_ahead(id, job, widest), live, widest, slot_seconds, is_too_new and 1 or 0 }
end
