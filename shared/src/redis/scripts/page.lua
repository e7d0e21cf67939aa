-- Reads a page of a room's history. Costs the same at any depth.
-- KEYS    1 head, 2 log, 3 subscribers
-- ARGV    1 'newest', 'before' or 'after', 2 position, 3 how many entries, 4 fresh generation,
--         5 the connection that must have joined ('' if the caller has checked)
-- answer  {'not_joined'}; {'page', generation, entries, 1 if there are older ones, 1 if there are newer ones}

if ARGV[5] ~= '' and redis.call('HEXISTS', KEYS[3], ARGV[5]) == 0 then return {'not_joined'} end

-- A room without head is not given one by reading: nothing was written there, or all of it is forgotten.
local generation = redis.call('HGET', KEYS[1], 'generation') or ARGV[4]
local most = tonumber(ARGV[3])

-- Redis refuses an open interval that begins after the largest id or ends before the smallest.
local largest = '18446744073709551615-18446744073709551615'

local entries
if (ARGV[1] == 'after' and ARGV[2] == largest) or (ARGV[1] == 'before' and ARGV[2] == '0-0') then
  entries = {}
elseif ARGV[1] == 'after' then
  entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[2], '+', 'COUNT', most)
elseif ARGV[1] == 'before' then
  entries = reversed(redis.call('XREVRANGE', KEYS[2], '(' .. ARGV[2], '-', 'COUNT', most))
else
  entries = reversed(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', most))
end

local older, newer = false, false
if #entries > 0 then
  older = #redis.call('XREVRANGE', KEYS[2], '(' .. entries[1][1], '-', 'COUNT', 1) > 0
  newer = #redis.call('XRANGE', KEYS[2], '(' .. entries[#entries][1], '+', 'COUNT', 1) > 0
end
return {'page', generation, entries, older and 1 or 0, newer and 1 or 0}
