-- Notes that the contents of a batch's file are on disk now, and removes them from Redis.
--
-- Needs:   files
-- Reads:   the file's record
-- Writes:  the file's record and contents, the owner's bytes
-- Arguments:
--   id: text
--   bytes: number    how many were copied
-- Answers:
--   moved      also if it was moved before
--   not_moved  there is no such file, or it is longer than that
write_although_full()
local file = load_file(id)
if not file or file.bytes ~= bytes then return answer('not_moved') end
if file.place == 'redis' then
  redis.call('HSET', key('file', id), 'place', 'disk')
  redis.call('UNLINK', key('content', id))
  add_bytes(file.owner, -bytes)
end
return answer('moved')
