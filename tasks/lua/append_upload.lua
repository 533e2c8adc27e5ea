-- Appends a piece to a file that is being uploaded into Redis. The first piece makes its record.
--
-- Needs:   files
-- Reads:   the file's record, what its owner's files and jobs take
-- Writes:  the file's record and contents, file_expiry, the owner's bytes
-- Arguments:
--   id: text
--   owner: text
--   at: number              where the piece begins, in bytes
--   most_bytes: number      of all files of an owner
--   memory_share: number    of Redis' memory that an owner may take
--   data: text
-- Answers:
--   appended     also if it was appended before
--   lost         the earlier pieces are not there
--   over_files   the owner's files take too many bytes
--   over_share   the owner's jobs and files take too much memory
--   nearly_full  Redis' memory is nearly full
local UPLOAD_SECONDS = 600 -- The contents of an upload that gets no piece for this long are removed.

local file = load_file(id)
if not file and at > 0 then return answer('lost') end
if file and not is_whole(file, id) then return answer('lost') end
if file and file.bytes == at + #data then return answer('appended') end
if file and file.bytes ~= at then return answer('lost') end

local memory = memory_refusal(owner, #data, memory_share)
if memory then return answer(memory) end
local own_bytes = tonumber(redis.call('HGET', PREFIX .. 'file_bytes', owner) or 0)
if own_bytes + #data > most_bytes then return answer('over_files') end

if not file then
  create_file(id, owner, 'uploading', 'redis', 0)
  file = load_file(id)
end
append_contents(file, id, data, 0)
expire_file(id, now() + UPLOAD_SECONDS)
return answer('appended')
