-- Records that a user has opened a connection.
-- KEYS    1 the user's connections: connection -> '<session> <since>', with '-' before it once the session has ended;
--         2 there if this connection is gone
-- ARGV    1 connection, 2 session, 3 most connections of one user, 4 seconds that a connection can live
-- answer  'recorded' (also if it was before), 'full' the user has too many, 'gone' it was closed meanwhile
--
-- $disconnect is best effort: connections older than the gateway lets any live are forgotten here, so that lost ones
-- do not lock a user out. The key does not expire: Redis, short of memory, could take it then, and a log-out would not
-- find what it has to close.

if redis.call('EXISTS', KEYS[2]) == 1 then return 'gone' end

local now = tonumber(redis.call('TIME')[1])
local connections = redis.call('HGETALL', KEYS[1])
for index = 1, #connections, 2 do
  local since = tonumber(string.match(connections[index + 1], ' (%d+)$'))
  if not since or since + tonumber(ARGV[4]) < now then redis.call('HDEL', KEYS[1], connections[index]) end
end

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 'full' end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now))
end
return 'recorded'
