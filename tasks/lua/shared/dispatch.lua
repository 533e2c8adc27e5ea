-- Offers waiting jobs to workers with free slots.
--
-- Every script that changes a line or frees slots ends with `dispatch`.
--
-- Needs: places, workers

local MAX_OFFERS_PER_CALL = 128

-- Returns the first of the jobs that a worker may take, can hold and understands: {id, score, line, needs}. Other jobs are
-- left to other workers. needs: slots that must be free. passed: by line, jobs at its head that wait for another worker.
local function head_of(worker, model, passed)
  local head
  for _, queue in ipairs({ 'any:' .. model, worker.engine_pool }) do
    for _, class in ipairs(classes_of(queue)) do
      if class.width <= worker.slots and class.version <= worker.version then
        local line = line_of(queue, class.name)
        local rank = passed[line] or 0
        local first = redis.call('ZRANGE', line, rank, rank, 'WITHSCORES')
        local id, score = first[1], tonumber(first[2])
        if id and not (head and (head.score < score or (head.score == score and head.id < id))) then
          head = { id = id, score = score, needs = class.width, line = line }
        end
      end
    end
  end
  local fails = head and tonumber(redis.call('HGET', key('job', head.id), 'fails'))
  if fails and fails >= ALONE_FROM_FAILS then head.needs = worker.slots end
  return head
end

-- Moves one job from the line to offered. Virtual time follows the tag in service, but never passes a job that is still
-- in line.
local function offer(head, worker, model, time)
  local job = load_job(head.id)
  leave_place(job, head.id)
  local resend_at = precise(time + RESEND_OFFER_SECONDS)
  enter_engine_pool(job, head.id, 'offered', worker.engine_pool, worker.name, resend_at)
  local tag = math.min(head.score, tonumber(redis.call('HGET', key('job', head.id), 'tag')))
  local virtual = tonumber(redis.call('GET', key('virtual', model)) or 0)
  if tag > virtual then
    redis.call('SET', key('virtual', model), precise(tag))
    -- An owner whose last tag is in the past counts as a new owner.
    redis.call('ZREMRANGEBYSCORE', key('finish', model), '-inf', precise(tag))
  end
end

-- Offers the heads of a model's lines while its workers have free slots, first to the worker with the most of them.
--
-- A job that needs more slots than are free waits for those of the worker with the most free slots. No job overtakes it
-- there, or it might wait forever. That worker's free slots do not become fewer meanwhile. The other workers take the
-- jobs that come next.
local function dispatch(model, time)
  local workers, passed = workers_of(model, 'any:' .. model, time), {}
  while #offers < MAX_OFFERS_PER_CALL do
    local freest
    for _, worker in ipairs(workers) do
      if worker.free > 0 and not (freest and freest.free >= worker.free) then freest = worker end
    end
    if not freest then break end
    local head = head_of(freest, model, passed)
    if head and head.needs <= freest.free then
      if pcall(offer, head, freest, model, time) then
        freest.free = freest.free - head.needs
        offers[#offers + 1] = { freest.name, head.id }
      else
        drop_dangling(head.id, head.line)
      end
    else
      if head then passed[head.line] = (passed[head.line] or 0) + 1 end
      freest.free = 0 -- For this call.
    end
  end
end
