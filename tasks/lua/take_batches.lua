-- Gives batches that are due to the caller, for a turn. Closes those whose window is over. Removes files and batches that
-- are kept no longer.
--
-- Every web process calls it. If a process dies during its turn, another one gets the batch after the turn. Two processes
-- may have a turn with the same batch if one of them is slow. The other scripts allow for that.
--
-- Needs:   batches
-- Reads:   batch_turns, file_expiry, batch_expiry, the batches' records
-- Writes:  batch_turns, what is due
-- Arguments:
--   most: number            batches, files and records to handle in this call, at most
--   turn_seconds: number    how long a turn lasts
-- Answers:
--   ok    ids: of batches
--         lost: ids of batches whose records are missing or damaged
--         on_disk: ids of files that were removed, and whose contents are on disk
--         due_in: seconds until the next batch is due; absent if there is none
write_although_full()
local time = now()
local ids, lost, on_disk = {}, {}, {}

local function due(set) return redis.call('ZRANGEBYSCORE', set, '-inf', precise(time), 'LIMIT', 0, most) end

for _, id in ipairs(due(PREFIX .. 'batch_turns')) do
  local batch = load_batch(id)
  if batch then
    if batch.expires_at <= time then close_batch(batch, id, 'expired', nil, time) end
    redis.call('ZADD', PREFIX .. 'batch_turns', precise(time + turn_seconds), id)
    ids[#ids + 1] = id
  else
    redis.call('ZREM', PREFIX .. 'batch_turns', id)
    redis.call('DEL', key('batch', id), key('batch_lines', id))
    lost[#lost + 1] = id
  end
end

for _, id in ipairs(due(PREFIX .. 'file_expiry')) do
  local file = load_file(id)
  if file then
    forget_file(file, id)
    if file.place == 'disk' then on_disk[#on_disk + 1] = id end
  else
    redis.call('ZREM', PREFIX .. 'file_expiry', id)
    redis.call('UNLINK', key('file', id), key('content', id), key('marks', id))
  end
end

for _, id in ipairs(due(PREFIX .. 'batch_expiry')) do
  local batch = load_batch(id)
  if batch then forget_batch(batch, id) else redis.call('ZREM', PREFIX .. 'batch_expiry', id) end
end

local fields = { ids = ids, lost = lost, on_disk = on_disk }
local first = redis.call('ZRANGE', PREFIX .. 'batch_turns', 0, 0, 'WITHSCORES')
if first[2] then fields.due_in = precise(math.max(0, tonumber(first[2]) - time)) end
return answer('ok', fields)
