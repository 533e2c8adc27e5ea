-- Batches: their records, and what becomes of their lines.
--
-- The lines of a batch's input file before `offset` (in bytes) have been taken, each by one call of a script that moves
-- `offset`. A line that was taken is open while its jobs run: batch_lines:<id> has it. Then it is a line of the output
-- file or of the error file. `outcome` says how the batch is to end, once it takes no more jobs.
--
-- Needs: files, lifecycle

-- Returns a batch's record, or nil if there is none, or if parts of it are missing.
local function load_batch(id)
  local f = redis.call('HMGET', key('batch', id), 'owner', 'status', 'created_at', 'expires_at', 'input_file_id', 'offset',
    'input_bytes', 'outcome', 'output_file_id', 'error_file_id', 'bytes', 'output_seconds', 'total')
  for i = 1, 7 do
    if not f[i] then return nil end
  end
  return {
    owner = f[1], status = f[2], created_at = tonumber(f[3]), expires_at = tonumber(f[4]), input_file_id = f[5],
    offset = tonumber(f[6]), input_bytes = tonumber(f[7]), outcome = f[8] or nil, output_file_id = f[9] or nil,
    error_file_id = f[10] or nil, bytes = tonumber(f[11] or 0), output_seconds = tonumber(f[12] or 0),
    total = tonumber(f[13] or 0),
  }
end

local function move_batch(id, status, time) redis.call('HSET', key('batch', id), 'status', status, status .. '_at', precise(time)) end

-- Makes a batch take no more jobs. errors: JSON, or nil. Only its first outcome counts, except that damage always does.
local function close_batch(batch, id, outcome, errors, time)
  if batch.outcome and (outcome ~= 'failed' or batch.outcome == 'failed') then return end
  batch.outcome = outcome
  redis.call('HSET', key('batch', id), 'outcome', outcome)
  if errors then redis.call('HSET', key('batch', id), 'errors', errors) end
  move_batch(id, outcome == 'cancelled' and 'cancelling' or 'finalizing', time)
  redis.call('ZADD', PREFIX .. 'batch_turns', precise(time), id)
end

-- Returns why lines cannot be appended to a batch's files: damaged, too_long, or nil if they can.
local function write_refusal(batch, lines, longest_file)
  local added = 0
  for _, line in ipairs(lines) do added = added + #line + 1 end
  for _, file_id in ipairs({ batch.output_file_id or '', batch.error_file_id or '' }) do
    local file = load_file(file_id)
    if not (file and file.status == 'open' and is_whole(file, file_id)) then return 'damaged' end
    if file.bytes + added > longest_file then return 'too_long' end
  end
end

-- Appends lines to a batch's output file and its error file, and counts them.
local function write_lines(batch, id, outputs, errors)
  for file_id, lines in pairs({ [batch.output_file_id] = outputs, [batch.error_file_id] = errors }) do
    if #lines > 0 then
      append_contents(load_file(file_id), file_id, table.concat(lines, '\n') .. '\n', #lines)
    end
  end
  redis.call('HINCRBY', key('batch', id), 'completed', #outputs)
  redis.call('HINCRBY', key('batch', id), 'failed', #errors)
end

-- Removes a batch that has ended. Its files are kept for as long as they say themselves.
local function forget_batch(batch, id)
  add_bytes(batch.owner, -batch.bytes)
  redis.call('DEL', key('batch', id), key('batch_lines', id))
  redis.call('ZREM', key('batches', batch.owner), id)
  redis.call('ZREM', PREFIX .. 'batch_expiry', id)
end
