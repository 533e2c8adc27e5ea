-- Where waiting jobs stand.
--
-- ARGV from 5 on: job ids
-- Answers: for each {jobs ahead (-1 where it is on offer already), live slots of the pools that may take it,
--          average slot seconds of a job ('' while unknown)}
local time = now()
local answer = {}

-- In its own line, and in those of the model's other queues whose jobs the same pools take.
local function ahead(id, queue, model, pools)
  local rank = redis.call('ZRANK', key('line', queue), id)
  if not rank then return -1 end
  local before = '(' .. redis.call('ZSCORE', key('line', queue), id)
  local others = { 'any:' .. model }
  if queue == others[1] then others = pools end
  for _, other in ipairs(others) do rank = rank + redis.call('ZCOUNT', key('line', other), '-inf', before) end
  return rank
end

for i = 5, #ARGV do
  local f = redis.call('HMGET', key('job', ARGV[i]), 'queue', 'model')
  local queue, model = f[1] or '', f[2] or ''
  local pools, live = pools_of(model), 0
  for _, pool in ipairs(pools) do
    if queue == pool or queue == 'any:' .. model then live = live + live_slots(pool, time) end
  end
  answer[#answer + 1] = {
    ahead(ARGV[i], queue, model, pools), live, redis.call('HGET', key('stats', model), 'slot_seconds') or '',
  }
end
return answer
