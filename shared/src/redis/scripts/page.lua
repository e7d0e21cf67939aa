-- Reads a page of a room's history. Costs the same at any depth.
-- KEYS    1 head, 2 log, 3 subscribers
-- ARGV    1 'newest', 'before' or 'after', 2 position, 3 how many entries, 4 how many bytes of them,
--         5 fresh generation, 6 the connection that must have joined ('' if the caller has checked)
-- answer  {'not_joined'}; {'page', generation, entries, 1 if there are older ones, 1 if there are newer ones}

if ARGV[6] ~= '' and redis.call('HEXISTS', KEYS[3], ARGV[6]) == 0 then return {'not_joined'} end

-- A room without head is not given one by reading: nothing was written there, or all of it is forgotten.
local generation = redis.call('HGET', KEYS[1], 'generation') or ARGV[5]
local most, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])

-- Redis refuses an open interval that begins after the largest id or ends before the smallest.
local largest = '18446744073709551615-18446744073709551615'
if (ARGV[1] == 'after' and ARGV[2] == largest) or (ARGV[1] == 'before' and ARGV[2] == '0-0') then
  return {'page', generation, {}, 0, 0}
end

local function beyond(command, entry, to)
  return entry and #redis.call(command, KEYS[2], '(' .. entry[1], to, 'COUNT', 1) or 0
end

if ARGV[1] == 'after' then
  local entries, newer = read('XRANGE', KEYS[2], '(' .. ARGV[2], '+', most, bytes)
  return {'page', generation, entries, beyond('XREVRANGE', entries[1], '-'), newer}
end
local from = ARGV[1] == 'before' and '(' .. ARGV[2] or '+'
local entries, older = read('XREVRANGE', KEYS[2], from, '-', most, bytes)
return {'page', generation, reversed(entries), older, beyond('XRANGE', entries[1], '+')}
