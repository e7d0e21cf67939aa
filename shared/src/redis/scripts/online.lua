-- Who is in a room.
-- KEYS    1 head, 2 subscribers, 3 online
-- ARGV    1 fresh version of the subscribers, 2 seconds that a connection can live, 3 seconds between two sweeps,
--         4 how many users are named
-- answer  {user, '<connections> <name>', …}, how many users there are

-- A room that has left Redis gets no head by being looked at.
if redis.call('EXISTS', KEYS[2]) == 1 then sweep(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]) end
local count = redis.call('HLEN', KEYS[3])
if count <= tonumber(ARGV[4]) then return {redis.call('HGETALL', KEYS[3]), count} end
return {redis.call('HRANDFIELD', KEYS[3], ARGV[4], 'WITHVALUES'), count}
