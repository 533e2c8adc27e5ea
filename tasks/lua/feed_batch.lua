-- Takes the next lines of a batch, and stores their jobs: all of it, or nothing.
--
-- Needs:   accepting, batches, dispatch
-- Reads:   the batch's record, what submit.lua reads
-- Writes:  the batch's record and its open lines, what submit.lua writes; then dispatches
-- Arguments:
--   id: text
--   offset: number           where the lines begin in the input file, in bytes
--   next_offset: number      where the line after them begins
--   next_line: number        how many lines are before that
--   lines: json              for each line {number (of the line), custom_id, jobs (how many)}
--   owner: text
--   queue: text
--   model: text
--   max_queued: number       jobs that may wait
--   is_own_model: flag       as in submit.lua
--   trusts_settings: flag    as in submit.lua
--   memory_share: number     of Redis' memory that an owner may take
--   jobs: json               as in submit.lua, line by line
--   requests: texts          for each job, as JSON
-- Answers:
--   fed
--   moved         these lines were taken before
--   closed        the batch takes no more jobs
--   full, over_share, nearly_full, unknown, too_wide, as in submit.lua; the batch is unchanged
--   full          retry_after: seconds until a place should be free
--   over_share
--   nearly_full
--   unknown       models: JSON, the models that any worker ever announced
--   too_wide      widest: slots of the widest worker
local batch = load_batch(id)
if not batch or batch.outcome or batch.status ~= 'in_progress' then return answer('closed') end
if batch.offset ~= offset then return answer('moved') end

local call = {
  owner = owner, queue = queue, model = model, max_queued = max_queued, is_own_model = is_own_model,
  trusts_settings = trusts_settings, memory_share = memory_share, jobs = jobs,
}
local ids, time, first = complete_jobs(call, requests), now(), 1
local refused, why = refusal(call, time)
if refused then return answer(refused, why) end
store_jobs(call, time)
for _, line in ipairs(lines) do
  local own = {}
  for i = first, first + line.jobs - 1 do own[#own + 1] = ids[i] end
  first = first + line.jobs
  redis.call('HSET', key('batch_lines', id), line.number,
    cjson.encode({ custom_id = line.custom_id, jobs = own }))
end
redis.call('HSET', key('batch', id), 'offset', next_offset, 'next_line', next_line)
dispatch(model, time)
return answer('fed')
