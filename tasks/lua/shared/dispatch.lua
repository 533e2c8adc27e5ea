-- Offers waiting jobs to workers with free slots. Where there are none, a job of high or normal priority may get those of a
-- running job of priority low.
--
-- Every script that changes a line or frees slots ends with `dispatch`.
--
-- Needs: places, workers, preemption

local MAX_OFFERS_PER_CALL = 128

local function may_take(worker, model, queue, class)
  return (queue == 'any:' .. model or queue == worker.engine_pool) and class.width <= worker.slots
    and class.version <= worker.version
end

-- Returns the first of the jobs that a worker may take, can hold and understands: {id, score, queue, class, line, needs,
-- is_low, is_alone}. Other jobs are left to other workers. needs: slots that must be free. passed: by line, jobs at its head
-- that wait for another worker.
local function head_of(worker, model, passed)
  local head
  for _, queue in ipairs({ 'any:' .. model, worker.engine_pool }) do
    for _, class in ipairs(classes_of(queue)) do
      if may_take(worker, model, queue, class) then
        local line = line_of(queue, class.name)
        local rank = passed[line] or 0
        local first = redis.call('ZRANGE', line, rank, rank, 'WITHSCORES')
        local one = { id = first[1], score = tonumber(first[2]), queue = queue, class = class, line = line }
        if one.id and not (head and comes_before(head, one)) then head = one end
      end
    end
  end
  if not head then return nil end
  local f = redis.call('HMGET', key('job', head.id), 'fails', 'tag')
  head.is_alone = (tonumber(f[1]) or 0) >= ALONE_FROM_FAILS
  head.is_low = not f[2] or is_low(head.score, f[2])
  head.needs = head.is_alone and worker.slots or head.class.width
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
    for _, owner in ipairs(redis.call('ZRANGEBYSCORE', key('finish', model), '-inf', precise(tag))) do
      redis.call('ZREM', key('finish', model), owner)
      redis.call('HDEL', key('low_part', model), owner)
    end
  end
end

-- Returns the workers that run jobs of priority low and whose next job is this one, those with the most room first.
local function workers_next_for(head, workers, model, passed)
  local found, next_ids = {}, {}
  for _, worker in ipairs(workers) do
    if worker.has_low and not worker.is_done and may_take(worker, model, head.queue, head.class) then
      local view = table.concat({ worker.engine_pool, worker.slots, worker.version }, ' ')
      next_ids[view] = next_ids[view] or head_of(worker, model, passed).id
      if next_ids[view] == head.id then found[#found + 1] = worker end
    end
  end
  table.sort(found, function(a, b) return a.room > b.room or (a.room == b.room and a.name < b.name) end)
  return found
end

-- Returns the worker whose slots a job will get in a moment, because running jobs of priority low give them back. Those jobs
-- were asked before, or are asked here. Returns nil if there is no such worker.
local function worker_that_yields(head, workers, model, passed)
  if head.is_alone then return nil end
  local found = workers_next_for(head, workers, model, passed)
  if found[1] and found[1].room >= head.needs then return found[1] end
  if head.is_low then return nil end
  for _, worker in ipairs(found) do
    if preempt(worker, head) then return worker end
  end
  return nil
end

-- Offers the heads of a model's lines while its workers have free slots, first to the worker with the most of them.
--
-- A job that needs more slots than are free waits for the worker that will have them in a moment, if there is one. Otherwise
-- it waits for the worker with the most free slots, whose free slots do not become fewer meanwhile. No job overtakes it there,
-- or it might wait forever. The other workers take the jobs that come next.
local function dispatch(model, time)
  local workers, passed, stuck = workers_of(model, 'any:' .. model, time), {}, {}
  count_room(workers)
  while #offers < MAX_OFFERS_PER_CALL do
    local freest
    for _, worker in ipairs(workers) do
      if (worker.free > 0 or worker.has_low) and not worker.is_done and not (freest and freest.free >= worker.free) then
        freest = worker
      end
    end
    if not freest then break end
    local head = head_of(freest, model, passed)
    local fits = head and head.needs <= freest.free
    local yielder = head and not fits and not stuck[head.id] and worker_that_yields(head, workers, model, passed)
    if fits then
      if pcall(offer, head, freest, model, time) then
        freest.free, freest.room = freest.free - head.needs, freest.room - head.needs
        offers[#offers + 1] = { freest.name, head.id }
      else
        drop_dangling(head.id, head.line)
      end
    elseif yielder then
      passed[head.line] = (passed[head.line] or 0) + 1
      yielder.room = yielder.room - head.needs
      yielder.free = math.min(yielder.free, yielder.room)
    else
      -- Only free slots are for the jobs that come next. Slots that are not free yet will be for this job.
      if head and freest.free > 0 then passed[head.line] = (passed[head.line] or 0) + 1 end
      if head then stuck[head.id] = true end
      freest.is_done = true -- For this call.
    end
  end
end
