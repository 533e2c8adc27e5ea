-- Shows a file to its owner, after all of it has arrived.
--
-- Needs:   files
-- Reads:   the file's record, what its owner's files and jobs take
-- Writes:  the file's record, the owner's list of files, file_expiry, the owner's bytes
-- Arguments:
--   id: text
--   owner: text
--   filename: text
--   purpose: text
--   place: text             redis or disk
--   bytes: number           its length
--   seconds: number         how long it is kept
--   most_bytes: number      of all files of an owner
--   memory_share: number    of Redis' memory that an owner may take
-- Answers:
--   stored       created_at, expires_at. Also if it was stored before
--   lost         the contents are not there
--   over_files   the owner's files take too many bytes
--   over_share   the owner's jobs and files take too much memory
--   nearly_full  Redis' memory is nearly full
local file = load_file(id)
if file and file.status == 'stored' then
  local known = redis.call('HMGET', key('file', id), 'created_at', 'expires_at')
  return answer('stored', { created_at = known[1], expires_at = known[2] })
end
if place == 'redis' and not (file and file.bytes == bytes and is_whole(file, id)) then return answer('lost') end
if place == 'disk' then
  local memory = memory_refusal(owner, FILE_RECORD_BYTES, memory_share)
  if memory then return answer(memory) end
  local own_bytes = tonumber(redis.call('HGET', PREFIX .. 'file_bytes', owner) or 0)
  if own_bytes + bytes > most_bytes then return answer('over_files') end
  create_file(id, owner, 'stored', 'disk', bytes)
end
local time = now()
redis.call('HSET', key('file', id), 'status', 'stored')
list_file(id, owner, filename, purpose, precise(time))
expire_file(id, time + seconds)
return answer('stored', { created_at = precise(time), expires_at = precise(time + seconds) })
