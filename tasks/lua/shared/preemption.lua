-- Takes slots back from running jobs of priority low, for a job of higher priority that comes before them in line.
--
-- A mark in the record asks a job for its slots. Its worker sees the mark in its next flush and releases the job. The mark
-- names the lease token, so it ends with the lease, whatever ends that. A worker of the earlier release neither enters its
-- jobs in low:<engine pool> nor reads the mark, so nobody asks it.
--
-- A job is only asked if it comes after the other job in line. So the slots do not come back to it at once, and a low job
-- whose turn has come keeps its slots. It is only asked when it has written a token since its claim, and MAX_PREEMPTIONS
-- times at most. So each attempt brings it on, and its attempts are bounded.
--
-- Needs: places, workers

local MAX_PREEMPTIONS = 16

-- Sets for each worker: room, its slots that are free or that marked jobs are about to give back; has_low, whether its
-- engine pool runs jobs of priority low.
local function count_room(workers)
  local by_name, has_low = {}, {}
  for _, worker in ipairs(workers) do
    local engine_pool = worker.engine_pool
    if has_low[engine_pool] == nil then has_low[engine_pool] = redis.call('HLEN', key('low', engine_pool)) > 0 end
    worker.room, worker.has_low = worker.free, has_low[engine_pool]
    by_name[engine_pool .. ' ' .. worker.name] = worker
  end
  for engine_pool, any in pairs(has_low) do
    local marked = any and redis.call('HGETALL', key('yielding', engine_pool)) or {}
    for i = 1, #marked, 2 do
      local f = redis.call('HMGET', key('job', marked[i]), 'token', 'worker', 'taken')
      local worker = by_name[engine_pool .. ' ' .. (f[2] or '')]
      if f[1] ~= marked[i + 1] then
        redis.call('HDEL', key('yielding', engine_pool), marked[i]) -- The earlier release's scripts moved it on.
      elseif worker then
        worker.room = worker.room + (tonumber(f[3]) or 0)
      end
    end
  end
end

-- Returns a running job of priority low if it may be asked for its slots: {id, lease_token, slots, loss}. loss: how many
-- tokens its next attempt has to compute again, about. A job that runs alone is never asked.
local function candidate(id, lease_token, worker, head)
  local f = redis.call('HMGET', key('job', id), 'token', 'worker', 'n', 'taken', 'score', 'progress', 'preemptions',
    'prompt_tokens', 'preempt_requested')
  if f[1] ~= lease_token then
    redis.call('HDEL', key('low', worker.engine_pool), id) -- The earlier release's scripts moved it on.
    return nil
  end
  local slots, preemptions = tonumber(f[4]), tonumber(f[7]) or 0
  if f[2] ~= worker.name or tonumber(f[3]) ~= slots then return nil end
  if f[6] ~= '1' or f[9] == lease_token or preemptions >= MAX_PREEMPTIONS then return nil end
  if not comes_before(head, { id = id, score = tonumber(f[5]) }) then return nil end
  local loss = slots * (tonumber(f[8]) or 0) + redis.call('LLEN', key('log', id))
  return { id = id, lease_token = lease_token, slots = slots, loss = loss }
end

-- Returns the jobs on a worker that may be asked for their slots. A damaged record is left to the reaper.
local function candidates_on(worker, head)
  local found, low = {}, redis.call('HGETALL', key('low', worker.engine_pool))
  for i = 1, #low, 2 do
    local is_read, one = pcall(candidate, low[i], low[i + 1], worker, head)
    if is_read and one then found[#found + 1] = one end
  end
  return found
end

-- Returns those of the candidates that together free `needed` slots and lose least. None of them could be left out. Returns
-- nil if all of them free fewer slots.
local function cheapest(candidates, needed)
  table.sort(candidates, function(a, b) return a.loss < b.loss or (a.loss == b.loss and a.id < b.id) end)
  local chosen, freed = {}, 0
  for _, one in ipairs(candidates) do
    if freed >= needed then break end
    chosen[#chosen + 1], freed = one, freed + one.slots
  end
  if freed < needed then return nil end
  for i = #chosen, 1, -1 do
    if freed - chosen[i].slots >= needed then freed = freed - table.remove(chosen, i).slots end
  end
  return chosen
end

-- Asks running jobs of priority low on a worker for the slots that a waiting job lacks there. Returns whether they suffice;
-- if not, it asks nobody.
local function preempt(worker, head)
  local chosen = cheapest(candidates_on(worker, head), head.needs - worker.room)
  for _, one in ipairs(chosen or {}) do
    redis.call('HSET', key('job', one.id), 'preempt_requested', one.lease_token)
    redis.call('HSET', key('yielding', worker.engine_pool), one.id, one.lease_token)
    worker.room = worker.room + one.slots
  end
  return chosen ~= nil
end
