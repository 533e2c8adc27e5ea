-- Whole jobs, each at one moment. A script and not a transaction, which a full Redis refuses even to readers.
--
-- ARGV from 5 on: job ids
-- Answers: {Redis' time, {record, log}, ...}; the record as names and values in turn, none where there is no
--          such job
local answer = { precise(now()) }
for i = 5, #ARGV do
  local id = ARGV[i]
  answer[#answer + 1] = { redis.call('HGETALL', key('job', id)), redis.call('LRANGE', key('log', id), 0, -1) }
end
return answer
