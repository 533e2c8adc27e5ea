-- Where waiting jobs stand.
--
-- ARGV from 5 on: job ids
-- Answers: for each {jobs ahead (-1 where it is on offer already), live slots, average slot seconds of a
--          job ('' while unknown)}
local time = now()
local answer = {}
for i = 5, #ARGV do
  local queue = redis.call('HGET', key('job', ARGV[i]), 'queue') or ''
  answer[#answer + 1] = {
    redis.call('ZRANK', key('line', queue), ARGV[i]) or -1,
    live_slots(queue, time),
    redis.call('HGET', key('stats', queue), 'slot_seconds') or '',
  }
end
return answer
