-- Appends an event to a room's log, once. Does not depend on the size of the room, unless the caller's list of
-- subscribers is stale.
-- KEYS    1 head, 2 log, 3 subscribers, 4 online, 5 the position that this event was given before
-- ARGV    1 connection, 2 body, 3 fresh generation, 4 the version of the subscribers that the caller holds ('' if none),
--         5 seconds for which a repeat is known, 6 seconds for which the room stays after its last use
-- answer  {'not_joined'} the connection has not joined, or Redis has forgotten it, or all else of the room;
--         {'posted' or 'repeated', position, the one before or '', with 'repeated' the body as it was logged first or
--          false if that is gone, version of the subscribers, {connection, '<user> <since>', …} or false if the caller's
--          are current, generation, 1 if subscribers have to be told that Redis has forgotten}

if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then return {'not_joined'} end

-- Without a head nobody can say what went before: whoever joins will find out.
local head = check_head(KEYS[1], KEYS[2], ARGV[3])
if not head then return {'not_joined'} end

local outcome, position, previous, body = 'posted', nil, head.last or '', false
local given = redis.call('GET', KEYS[5])
if given then
  outcome = 'repeated'
  position, previous = string.match(given, '^(%S+) (%S*)$')
  local entry = redis.call('XRANGE', KEYS[2], position, position)[1]
  body = entry and entry[2][4] or false
else
  position = redis.call('XADD', KEYS[2], '*', 'p', previous, 'e', ARGV[2])
  redis.call('HSET', KEYS[1], 'last', position)
  redis.call('SET', KEYS[5], position .. ' ' .. previous, 'EX', ARGV[5])
end
keep({KEYS[1], KEYS[2], KEYS[3], KEYS[4]}, ARGV[6])

local version = redis.call('HGET', KEYS[1], 'subscribers') or ''
local subscribers = false
if version == '' or version ~= ARGV[4] then subscribers = redis.call('HGETALL', KEYS[3]) end

return {outcome, position, previous, body, version, subscribers, head.generation, head.untold}
