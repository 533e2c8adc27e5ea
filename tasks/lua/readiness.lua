-- Tells whether a job that is submitted now can start now.
--
-- Needs:   settling, workers
-- Reads:   the workers and their lifelines, Redis' run
-- Answers:
--   ready       a worker takes jobs
--   settling    Redis has just come back, and nobody claims yet
--   no_worker   no worker with a loaded model lives, or all of them drain
local time = now()

-- A worker that was killed counts as alive until its announcement runs out. Its lifeline ends at once.
local function has_ended(worker)
  local lifeline = redis.call('HGET', PREFIX .. 'lifelines', worker)
  return lifeline and redis.call('PUBSUB', 'NUMSUB', lifeline)[2] == 0
end

local function has_worker()
  for _, model in ipairs(redis.call('HKEYS', PREFIX .. 'models_since')) do
    for _, worker in ipairs(workers_of(model, 'any:' .. model, time)) do
      if not has_ended(worker.name) then return true end
    end
  end
  return false
end

if not has_worker() then return answer('no_worker') end
if time < settled_at(time) then return answer('settling') end
return answer('ready')
