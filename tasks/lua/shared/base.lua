-- Part of every script: names of keys, time, numbers and the form of an answer.
--
-- Keys are computed, not declared, because the product runs on one Redis and not on a Redis Cluster. docs/keys.md lists
-- them all. PREFIX and the periods come with every call, see tasks/script_source.py.

local function key(kind, name) return PREFIX .. kind .. ':' .. name end

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- Lua writes numbers with 14 digits, which would cut a time to hundredths of a second.
local function precise(number) return string.format('%.6f', number) end

-- Lets the script write even if Redis is full. Redis then refuses a script's first write if that may need memory, and
-- no later one (redis/src/script.c). This write needs none. Every script that moves jobs on starts with it, because
-- running jobs must be able to end, and ended jobs make room.
local function write_although_full() redis.call('DEL', PREFIX .. 'nothing') end

-- The offers that this call makes, as {worker, id}. tasks/scripts.py sends them to Celery.
local offers = {}

-- Returns what every script returns: {status, offers, name, value, name, value, ...}.
local function answer(status, fields)
  local reply = { status, offers }
  for name, value in pairs(fields or {}) do
    reply[#reply + 1] = name
    reply[#reply + 1] = value
  end
  return reply
end
