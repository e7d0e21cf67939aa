-- Reads a page of a room's history. Costs the same at any depth.
-- KEYS    1 head, 2 log, 3 subscribers
-- ARGV    1 'newest', 'before' or 'after', 2 position, 3 how many entries, 4 how many bytes of them,
--         5 the connection that must have joined ('' if the caller has checked)
-- answer  {'not_joined'}; {'page', generation or false, last position or false, since, count of generations, entries,
--         1 if there are older ones, 1 if there are newer ones}. Without a generation the log is what is left of one that
--         was lost.

local head = read_head(KEYS[1])
if head and not is_last(KEYS[2], head.last) then head = false end
-- A connection that asks joins again then, and that is how it is found out what there is.
if ARGV[5] ~= '' and (not head or redis.call('HEXISTS', KEYS[3], ARGV[5]) == 0) then return {'not_joined'} end
-- The same with one that has seen more than there is: Redis has gone back.
if ARGV[5] ~= '' and ARGV[1] == 'after' and before(head.last or '0-0', ARGV[2]) then return {'not_joined'} end
if not head then head = {generation = false, last = false, since = UNKNOWN, count = 0} end
local most, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])

local function page(entries, older, newer)
  return {'page', head.generation, head.last, head.since, head.count, entries, older, newer}
end

-- Redis refuses an open interval that begins after the largest id or ends before the smallest.
if (ARGV[1] == 'after' and ARGV[2] == UNKNOWN) or (ARGV[1] == 'before' and ARGV[2] == '0-0') then
  return page({}, 0, 0)
end

local function beyond(command, entry, to)
  return entry and #redis.call(command, KEYS[2], '(' .. entry[1], to, 'COUNT', 1) or 0
end

if ARGV[1] == 'after' then
  local entries, newer = read('XRANGE', KEYS[2], '(' .. ARGV[2], '+', most, bytes)
  return page(entries, beyond('XREVRANGE', entries[1], '-'), newer)
end
local from = ARGV[1] == 'before' and '(' .. ARGV[2] or '+'
local entries, older = read('XREVRANGE', KEYS[2], from, '-', most, bytes)
return page(reversed(entries), older, beyond('XRANGE', entries[1], '+'))
