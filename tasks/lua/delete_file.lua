-- Removes a file, unless a batch that has not ended uses it. The caller removes its contents on disk.
--
-- Needs:   files
-- Reads:   the file's record
-- Writes:  the file's record and contents, the owner's list of files, file_expiry, the owner's bytes
-- Arguments:
--   id: text
--   owner: text
-- Answers:
--   deleted    place: redis or disk
--   in_use     a batch reads it or appends to it
--   not_found
local file = load_file(id)
if not file or file.owner ~= owner then return answer('not_found') end
if file.status == 'open' or file.holders > 0 then return answer('in_use') end
forget_file(file, id)
return answer('deleted', { place = file.place })
