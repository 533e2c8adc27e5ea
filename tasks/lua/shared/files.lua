-- Files: their records, their contents in Redis, and the memory that they are counted to take.
--
-- The contents of a file are the string content:<id>, or a file below FILES_DIR (`place` says which). A file is
-- `uploading` until all of it has arrived, `open` while a batch appends to it, and then `stored`.
--
-- Needs: records

local FILE_RECORD_BYTES = 1000
local MARK_EVERY_LINES = 256 -- So a line is found after reading at most this many others.

-- Returns a file's record, or nil if there is none.
local function load_file(id)
  local f = redis.call('HMGET', key('file', id), 'owner', 'status', 'place', 'bytes', 'lines', 'holders', 'purpose',
    'expires_at')
  if not (f[1] and f[2] and f[3] and f[4]) then return nil end
  return {
    owner = f[1], status = f[2], place = f[3], bytes = tonumber(f[4]), lines = tonumber(f[5] or 0),
    holders = tonumber(f[6] or 0), purpose = f[7], expires_at = tonumber(f[8]),
  }
end

-- Counts bytes for an owner. On disk they take no memory of Redis.
local function count_contents(owner, place, bytes)
  if redis.call('HINCRBY', PREFIX .. 'file_bytes', owner, bytes) <= 0 then
    redis.call('HDEL', PREFIX .. 'file_bytes', owner)
  end
  if place == 'redis' then add_bytes(owner, bytes) end
end

local function create_file(id, owner, status, place, bytes)
  redis.call('HSET', key('file', id), 'id', id, 'owner', owner, 'status', status, 'place', place, 'bytes', bytes)
  add_bytes(owner, FILE_RECORD_BYTES)
  count_contents(owner, place, bytes)
end

-- Shows a file to its owner.
local function list_file(id, owner, filename, purpose, created_at)
  redis.call('HSET', key('file', id), 'filename', filename, 'purpose', purpose, 'created_at', created_at)
  redis.call('ZADD', key('files', owner), created_at, id)
end

-- Lets a file be removed at a time.
local function expire_file(id, time)
  redis.call('HSET', key('file', id), 'expires_at', precise(time))
  redis.call('ZADD', PREFIX .. 'file_expiry', precise(time), id)
end

-- Whether the contents of a file in Redis are as long as its record says.
local function is_whole(file, id)
  return file.place ~= 'redis' or redis.call('STRLEN', key('content', id)) == file.bytes
end

-- Appends to the contents of a file in Redis. lines: how many line ends there are in `data`.
local function append_contents(file, id, data, lines)
  redis.call('APPEND', key('content', id), data)
  local before = file.lines
  file.bytes, file.lines = file.bytes + #data, file.lines + lines
  redis.call('HSET', key('file', id), 'bytes', file.bytes, 'lines', file.lines)
  count_contents(file.owner, 'redis', #data)
  if math.floor(before / MARK_EVERY_LINES) ~= math.floor(file.lines / MARK_EVERY_LINES) then
    redis.call('ZADD', key('marks', id), file.lines, file.bytes)
  end
end

-- Removes a file's record, and its contents in Redis. The caller removes contents on disk.
local function forget_file(file, id)
  add_bytes(file.owner, -FILE_RECORD_BYTES)
  count_contents(file.owner, file.place, 0 - file.bytes) -- Not -0, which Redis refuses.
  redis.call('UNLINK', key('file', id), key('content', id), key('marks', id))
  redis.call('ZREM', key('files', file.owner), id)
  redis.call('ZREM', PREFIX .. 'file_expiry', id)
end
